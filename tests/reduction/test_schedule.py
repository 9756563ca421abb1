"""Schedules: AIM's own numbers, and what every schedule promises."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.methods import METHODS
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


USUAL: dict[str, tuple[int, int, list[int]]] = {
    # Each method's own schedule: layers, tokens, and what leaves each layer.
    "aim-merge": (23, 576, [576] * 22 + [252]),
    "aim-prune": (28, 60, [60] * 14 + [52, 45, 37, 30, 22, 15, 7] + [0] * 7),
    "uniform": (28, 60, [60] * 14 + [52, 45, 37, 30, 22, 15, 7] + [0] * 7),
    "random": (28, 60, [60] * 14 + [52, 45, 37, 30, 22, 15, 7] + [0] * 7),
    "tome": (24, 576, [576 - 18 * (layer + 1) for layer in range(24)]),
    "evit": (12, 1000, [1000] * 3 + [700] * 3 + [490] * 3 + [343] * 3),
    "ficoco-v": (23, 576, [576] * 11 + [540 - 36 * layer for layer in range(12)]),
    "fastv": (32, 576, [576] + [288] * 31),
    "pyramid-drop": (32, 576, [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8),
    "sparsevlm": (32, 576, [576] * 2 + [309] * 4 + [204] * 9 + [113] * 17),
    "ficoco-l": (32, 464, [464] * 3 + [452 - 12 * layer for layer in range(29)]),
    "framefusion": (28, 3500, [3500] * 2 + [756] * 26),
    "ask-prune": (12, 672, [672] * 3 + [168] * 9),
}


def test_every_usual_schedule_is_here() -> None:
    assert set(USUAL) == {name for name, kind in METHODS.items() if kind().usual is not None}


@pytest.mark.parametrize("name", USUAL)
def test_usual_schedules_in_counts(name: str) -> None:
    usual, (depth, visual, left) = METHODS[name]().usual, USUAL[name]
    assert usual is not None
    assert [usual.kept(layer, depth, visual) for layer in range(depth)] == left
