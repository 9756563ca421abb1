"""Subtitles in Video-MME's form: the wording, the frames' lines, the range and the cap."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.captions import Line
from tokenreduce.subtitles import MOST_TOKENS, Told, told

SAID = tuple(Line(10.0 * i, 10.0 * i + 8, f"line number {i}") for i in range(360))


def words(text: str) -> int:
    return len(text.split())


def numbers(text: str) -> list[int]:
    return [int(row.split()[-1]) for row in text.splitlines()[1:]]


def test_the_form_is_that_of_video_mme() -> None:
    """README of MME-Benchmarks/Video-MME, "Evaluation Pipeline": heading, lines, question."""
    assert told(SAID[:2], words) == Told(
        "This video's subtitles are listed below:\nline number 0\nline number 1", 2, 2
    )


def test_nothing_said_is_nothing_told() -> None:
    assert told((), words) == Told("", 0, 0)
    assert told(SAID, words, start_seconds=8.5, stop_seconds=9.5) == Told("", 0, 0)


def test_only_lines_on_display_at_the_frames() -> None:
    found = told(SAID, words, frame_seconds=[0.0, 7.9, 8.0, 9.9, 30.0, 31.0, 3599.0])
    assert numbers(found.text) == [0, 3]
    assert (found.lines, found.of, found.left_out) == (2, 360, 358)
    overlapping = (Line(0, 9, "a"), Line(2, 4, "b"), Line(3, 5, "c"))
    assert told(overlapping, words, frame_seconds=[3.5]).text.splitlines()[1:] == ["a", "b", "c"]


def test_a_range_cuts_what_ends_before_or_begins_after() -> None:
    found = told(SAID, words, start_seconds=18.0, stop_seconds=40.0)
    assert numbers(found.text) == [2, 3, 4]
    assert (found.of, found.left_out) == (3, 0)


def test_too_many_lines_are_left_out_evenly() -> None:
    found = told(SAID, words, most_tokens=100)
    kept = numbers(found.text)
    assert words(found.text) <= 100
    assert len(kept) == found.lines == (100 - 6) // 3
    assert (kept[0], kept[-1]) == (0, 359)
    assert {b - a for a, b in pairwise(kept)} <= {11, 12}
    assert found.left_out == 360 - found.lines


def test_a_cap_below_the_heading_and_a_line_tells_nothing() -> None:
    for cap in (0, 1, 6, 8):
        assert told(SAID, words, most_tokens=cap) == Told("", 0, 360)
    assert numbers(told(SAID, words, most_tokens=9).text) == [0]


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 9), st.integers(1, 30)), max_size=60),
    st.floats(0, 100),
    st.floats(0, 100),
    st.lists(st.floats(0, 100)) | st.none(),
    st.integers(0, 300),
)
def test_any_lines_keep_to_the_cap_and_the_range(
    drawn: list[tuple[float, float, int]],
    start: float,
    length: float,
    frames: list[float] | None,
    cap: int,
) -> None:
    said = [
        Line(at, at + lasts, " ".join([f"w{i}"] * count))
        for i, (at, lasts, count) in enumerate(sorted(drawn))
    ]
    found = told(
        said,
        words,
        start_seconds=start,
        stop_seconds=start + length,
        frame_seconds=None if frames is None else sorted(frames),
        most_tokens=cap,
    )
    assert words(found.text) <= cap
    places = [int(row.split()[0][1:]) for row in found.text.splitlines()[1:]]
    assert len(places) == found.lines <= found.of <= len(said)
    assert places == sorted(set(places))
    for line in (said[i] for i in places):
        assert line.start_seconds <= start + length
        assert line.end_seconds > start
        assert frames is None or any(line.start_seconds <= t < line.end_seconds for t in frames)


def test_an_hour_of_speech_is_cut_in_good_time() -> None:
    asked = 0

    def count(text: str) -> int:
        nonlocal asked
        asked += len(text)
        return words(text)

    many = [Line(i, i + 1, "some words that are said " * 4) for i in range(100_000)]
    found = told(many, count)
    assert 0.98 * MOST_TOKENS < words(found.text) <= MOST_TOKENS
    assert asked < 20 * len(found.text)


@pytest.mark.parametrize("frames", [[], [3600.5]])
def test_frames_with_nothing_said(frames: list[float]) -> None:
    assert told(SAID, words, frame_seconds=frames) == Told("", 0, 360)
