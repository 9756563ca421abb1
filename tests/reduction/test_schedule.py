"""Schedules: AIM's own numbers, and what every schedule promises."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.schedule import Full, Once, Ramp, Schedule


def test_aim_on_qwen2_7b() -> None:
    """32 frames x 49 + 1 newline = 1569 tokens, 28 layers (arXiv 2412.03248; official ratios)."""
    left = [Ramp().kept(layer, 28, 1569) for layer in range(28)]
    assert left[:14] == [1569] * 14
    assert left[14:22] == [1372, 1176, 980, 784, 588, 392, 196, 0]
    assert left[22:] == [0] * 6


@pytest.mark.parametrize(
    ("visual", "left"),
    [
        (60, [52, 45, 37, 30, 22, 15, 7, 0]),
        (196, [171, 147, 122, 98, 73, 49, 24, 0]),
        (61, [53, 45, 38, 30, 22, 15, 7, 0]),
    ],
)
def test_official_counts(visual: int, left: list[int]) -> None:
    """Kept after layers 14 to 21 by the official code, LaVi-Lab/AIM commit edc24e9."""
    assert [Ramp().kept(layer, 28, visual) for layer in range(14, 22)] == left


def test_vicuna_of_32_layers() -> None:
    ramp = Ramp(Fraction(13, 32), Fraction(21, 32))
    assert [ramp.kept(layer, 32, 576) for layer in range(12, 21)] == [
        576, 504, 432, 360, 288, 216, 144, 72, 0,
    ]  # fmt: skip


fractions = st.fractions(0, 1, max_denominator=50)
ramps = st.tuples(fractions, fractions).filter(lambda p: p[0] < p[1]).map(lambda p: Ramp(*p))
onces = st.builds(Once, st.fractions(0, Fraction(49, 50), max_denominator=50), fractions)


@given(st.one_of(ramps, onces, st.just(Full())), st.integers(1, 80), st.integers(0, 20_000))
def test_never_rises_and_never_exceeds(schedule: Schedule, depth: int, visual: int) -> None:
    left = [schedule.kept(layer, depth, visual) for layer in range(depth)]
    assert all(0 <= count <= visual for count in left)
    assert left == sorted(left, reverse=True)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="first"):
        Ramp(Fraction(3, 4), Fraction(1, 2))
    with pytest.raises(ValueError, match="after"):
        Once(Fraction(1), Fraction(1, 2))
    with pytest.raises(ValueError, match="keep"):
        Once(Fraction(0), Fraction(3, 2))
