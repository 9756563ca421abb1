"""Chosen times against the reference's indices, and what must hold for any video."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.video.times import Span, choose, constant_period, targets

GOLDEN = Path(__file__).parents[1] / "golden" / "llava_video_io" / "sampling.json"
TICKS = [Fraction(1, d) for d in (1000, 15360, 24000, 30000, 90000, 1_000_000)]


def constant(frames: int, rate: Fraction, tick: Fraction, first: int = 0) -> list[int]:
    """Presentation times of a constant rate, rounded to ticks as a container stores them."""
    return [first + round(i / rate / tick) for i in range(frames)]


def span_of(times: list[int], tick: Fraction, rate: Fraction | None) -> Span:
    return Span(tick, times[0], times[-1], constant_period(times[0], times[-1], tick, rate, rate))


@pytest.mark.parametrize("tick", TICKS)
@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda c: str(c["n_frames"]))
def test_constant_rate_chooses_the_reference_frames(case: dict[str, Any], tick: Fraction) -> None:
    rate = Fraction(str(case["avg_fps"]))
    # The reference's rates are rounded; a file has the true one.
    rate = {"29.97": Fraction(30000, 1001), "23.976": Fraction(24000, 1001)}.get(str(rate), rate)
    times = constant(case["n_frames"], rate, tick, first=1234)
    chosen = choose(times, targets(span_of(times, tick, rate), case["max_frames_num"]))
    # Where there are fewer frames than asked for, the reference repeats some; here each is once.
    assert chosen == list(dict.fromkeys(case["frame_idx"]))


@given(
    frames=st.integers(2, 3000),
    wanted=st.integers(1, 300),
    rate=st.sampled_from([Fraction(30), Fraction(25), Fraction(30000, 1001), Fraction(60)]),
    tick=st.sampled_from(TICKS),
)
def test_constant_rate_is_linspace_whatever_the_time_base(
    frames: int, wanted: int, rate: Fraction, tick: Fraction
) -> None:
    times = constant(frames, rate, tick)
    chosen = choose(times, targets(span_of(times, tick, rate), wanted))
    assert chosen == list(dict.fromkeys(np.linspace(0, frames - 1, wanted).astype(int).tolist()))


@given(
    gaps=st.lists(st.integers(1, 5000), min_size=1, max_size=200),
    first=st.integers(-5000, 5000),
    wanted=st.integers(2, 100),
)
def test_any_other_rate_shows_what_is_on_display(gaps: list[int], first: int, wanted: int) -> None:
    times = [first, *(first + int(t) for t in np.cumsum(gaps))]
    asked = targets(Span(Fraction(1, 1000), times[0], times[-1], None), wanted)
    assert (asked[0], asked[-1], len(asked)) == (times[0], times[-1], wanted)
    assert max(np.diff(asked)) - min(np.diff(asked)) <= 1
    for target in asked:
        (index,) = choose(times, [target])
        assert times[index] <= target
        assert index == len(times) - 1 or times[index + 1] > target


@given(
    start=st.floats(0, 20), length=st.floats(0, 20), wanted=st.integers(1, 50), fixed=st.booleans()
)
def test_a_range_stays_inside_itself(start: float, length: float, wanted: int, fixed: bool) -> None:
    times = constant(300, Fraction(30), Fraction(1, 15360))
    span = Span(Fraction(1, 15360), 0, times[-1], Fraction(512) if fixed else None)
    chosen = choose(times, targets(span, wanted, start, start + length))
    seconds = [span.seconds(times[i]) for i in chosen]
    # From the frame on display at the start to the one on display at the stop.
    assert seconds[0] == pytest.approx(min(int(start * 30 + 1e-6) / 30, 299 / 30))
    assert seconds[-1] <= start + length + 1e-6
    assert chosen == sorted(set(chosen))


@pytest.mark.parametrize(
    ("last", "average", "base"),
    [
        (9000, Fraction(30), Fraction(60)),  # the demuxer saw times off the average's grid
        (9017, Fraction(30), Fraction(30)),  # no whole number of periods between the ends
        (9000, None, Fraction(30)),
        (0, Fraction(30), Fraction(30)),  # one frame
        (20, Fraction(2000), Fraction(2000)),  # finer than the time base
    ],
)
def test_a_rate_that_does_not_fit_is_not_constant(
    last: int, average: Fraction | None, base: Fraction
) -> None:
    assert constant_period(0, last, Fraction(1, 1000), average, base) is None


def test_a_rounded_rate_gives_the_true_period() -> None:
    period = constant_period(0, 1799 * 1001, Fraction(1, 30000), Fraction("29.97"), Fraction(30))
    assert period == 1001
