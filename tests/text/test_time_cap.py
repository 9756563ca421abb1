"""The time instruction keeps to its cap at any number of frames, and stays true."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import tokenreduce.demo
from tokenreduce.errors import SettingError
from tokenreduce.evenly import evenly, most_that_fit
from tokenreduce.models.chat import TIME_TOKENS, time_text

# Splits text as Qwen2's tokenizer does, one token for each digit; has fewer whole words.
TOKENIZER = Tokenizer.from_file(
    str(Path(tokenreduce.demo.__file__).parent / "checkpoint" / "tokenizer.json")
)


def tokens(text: str) -> int:
    return len(TOKENIZER.encode(text, add_special_tokens=False).ids)


def spread(frames: int, seconds: float) -> list[float]:
    return [seconds * i / max(frames - 1, 1) for i in range(frames)]


def stamps(text: str) -> list[str]:
    return text.split("located at ")[1].split(".Please", maxsplit=1)[0].split(",")


@pytest.mark.parametrize("frames", [1, 8, 64, 110])
@pytest.mark.parametrize("hours", [0.1, 1, 10])
def test_what_the_model_was_trained_on_is_untouched(frames: int, hours: float) -> None:
    times = spread(frames, hours * 3600)
    assert time_text(hours * 3600, times, tokens) == time_text(hours * 3600, times)


def test_thousands_of_frames_keep_to_the_cap() -> None:
    times = spread(3600, 3600)
    text = time_text(3600, times, tokens)
    assert 0.95 * TIME_TOKENS < tokens(text) <= TIME_TOKENS < tokens(time_text(3600, times)) / 20
    assert "and 3600 frames are uniformly sampled from it. 1" in text
    listed = stamps(text)
    assert f" {len(listed)} of these frames, evenly chosen, are located at 0.00s," in text
    assert text.endswith("3600.00s.Please answer the following questions related to this video.")


@given(st.integers(2, 5000), st.floats(1, 40_000), st.integers(90, 1500), st.integers(1, 300))
def test_any_count_of_frames_under_any_cap(
    frames: int, seconds: float, cap: int, more: int
) -> None:
    times = spread(frames, seconds)
    text = time_text(seconds, times, tokens, most_tokens=cap)
    assert tokens(text) <= cap
    listed = stamps(text)
    assert (listed[0], listed[-1]) == (f"{times[0]:.2f}s", f"{times[-1]:.2f}s")
    values = [float(stamp[:-1]) for stamp in listed]
    assert all(a <= b for a, b in pairwise(values))
    gap = seconds / (len(listed) - 1)
    step = seconds / (frames - 1)
    assert all(abs(b - a - gap) <= step + 0.02 for a, b in pairwise(values))
    wider = time_text(seconds, times, tokens, most_tokens=cap + more)
    assert len(stamps(wider)) >= len(listed)
    assert (text == time_text(seconds, times)) == (len(listed) == frames)


def test_a_cap_too_small_for_two_times_is_refused() -> None:
    with pytest.raises(SettingError, match="may take 50 tokens, too few for two times"):
        time_text(60, spread(9, 60), tokens, most_tokens=50)


def test_left_out_frames_are_told_as_spans() -> None:
    text = time_text(3600, [0, 12, 3599], tokens, sampled=3600)
    assert "and 3600 frames are uniformly sampled from it. 3 of them are shown, each stand" in text
    assert " These frames are located at 0.00s,12.00s,3599.00s.Please" in text
    assert time_text(3600, [0, 12], sampled=2) == time_text(3600, [0, 12])


def test_a_range_keeps_the_times_of_the_file() -> None:
    text = time_text(3600, [600, 750], part=(600, 750))
    assert text.startswith(
        "The video lasts for 3600.00 seconds, and 2 frames are uniformly sampled from its part "
        "from 600.00s to 750.00s. These frames are located at 600.00s,750.00s."
    )
    assert "from 600.00s to 3600.00s." in time_text(3600, [600, 750], part=(600, None))


@given(st.integers(1, 3000), st.integers(2, 200), st.booleans(), st.booleans())
def test_every_form_keeps_to_the_cap(frames: int, kept: int, skips: bool, ranged: bool) -> None:
    times = spread(kept, 5000)
    text = time_text(
        5000,
        times,
        tokens,
        most_tokens=300,
        sampled=kept + frames if skips else None,
        part=(0, 5000) if ranged else None,
    )
    assert tokens(text) <= 300
    listed = len(stamps(text))
    assert ("evenly chosen" in text) == (listed < kept)
    assert [int(n) for n in re.findall(r"(\d+) (?:of|frames)", text)] == [
        kept + frames if skips else kept,
        *([kept] if skips else []),
        *([listed] if listed < kept else []),
    ]


@given(st.integers(1, 500), st.integers(1, 600))
def test_evenly_chosen_places(count: int, kept: int) -> None:
    places = evenly(count, kept)
    assert len(places) == len(set(places)) == min(count, kept)
    assert places == sorted(places)
    assert places[0] == 0
    assert kept == 1 or places[-1] == count - 1
    gaps = {b - a for a, b in pairwise(places)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(0, 200))
def test_as_many_as_fit(sizes: list[int], limit: int) -> None:
    asked: list[int] = []

    def size(n: int) -> int:
        asked.append(n)
        return sum(sizes[:n])

    fits = most_that_fit(size, len(sizes), limit)
    assert fits == max((n for n in range(len(sizes) + 1) if sum(sizes[:n]) <= limit), default=0)
    assert all(n <= max(2 * fits, 1) for n in asked)
