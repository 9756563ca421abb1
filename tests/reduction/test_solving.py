"""A mean over layers is met as nearly as whole tokens allow, by every shape of schedule."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.cost import acting
from tokenreduce.engine.types import Prune
from tokenreduce.errors import SettingError
from tokenreduce.methods import METHODS
from tokenreduce.methods.controls import Random
from tokenreduce.paradigm import Method
from tokenreduce.schedule import Even, Once, Ramp, Schedule, Steps
from tokenreduce.solving import eased, entering, mean, per_layer

QUARTERS = tuple(Fraction(i, 4) for i in (1, 2, 3))
LLM: list[Method] = [kind() for kind in METHODS.values() if "llm" in kind().sites]
SHAPES: list[Schedule] = [
    Ramp(),
    Ramp(Fraction(0), Fraction(1)),
    Once(Fraction(1, 14), Fraction(1, 2)),
    Even(Fraction(1, 8), Fraction(1), Fraction(1, 4)),
    Steps(QUARTERS, Fraction(1, 2)),
    *(method.usual for method in LLM if method.usual is not None),
]


@pytest.mark.parametrize("schedule", SHAPES, ids=str)
@pytest.mark.parametrize("depth", [12, 28, 32])
def test_a_schedule_never_keeps_more_later(schedule: Schedule, depth: int) -> None:
    kept = [schedule.kept(i, depth, 1000) for i in range(depth)]
    assert all(0 <= n <= 1000 for n in kept)
    assert kept == sorted(kept, reverse=True)


@pytest.mark.parametrize("schedule", SHAPES, ids=str)
@given(st.integers(1, 64))
def test_easing_never_keeps_fewer(schedule: Schedule, steps: int) -> None:
    before = mean([schedule.eased(Fraction(0))], 28, 3136)
    for i in range(1, steps + 1):
        after = mean([schedule.eased(Fraction(i, steps))], 28, 3136)
        assert after >= before
        before = after


@pytest.mark.parametrize("schedule", SHAPES, ids=str)
@pytest.mark.parametrize(("visual", "wanted"), [(3136, 1000), (672, 300), (6720, 4000)])
def test_a_mean_is_met_from_below(schedule: Schedule, visual: int, wanted: int) -> None:
    (prune,) = eased([Prune(Random(), schedule)], wanted, 28, visual)
    reached = mean([prune.schedule], 28, visual)
    assert wanted * 0.98 <= reached <= wanted


def test_two_prunes_at_once_and_the_engine_s_count() -> None:
    schedules: list[Schedule] = [Ramp(), Once(Fraction(1, 4), Fraction(1, 2))]
    assert per_layer([Ramp()], 28, 1569) == acting(Ramp(), 28, 1569)
    both = per_layer(schedules, 28, 1569)
    assert both == tuple(map(min, acting(schedules[0], 28, 1569), acting(schedules[1], 28, 1569)))
    prunes = eased([Prune(Random(), s) for s in schedules], 700, 28, 1569)
    assert 690 <= mean([p.schedule for p in prunes], 28, 1569) <= 700


def test_a_mean_below_the_floor_names_the_floor() -> None:
    late = Once(Fraction(1, 2), Fraction(1, 2))  # 15 of 28 layers see everything
    with pytest.raises(
        SettingError,
        match=r"tokens random, which acts only .* leaves at least 536 a layer: .* fewer pictures$",
    ):
        eased([Prune(Random(), late)], 100, 28, 1000, name="random", less="fewer pictures")
    assert eased([Prune(Random(), late)], 536, 28, 1000)


@given(st.integers(1, 3000), st.integers(1, 4000))
def test_what_may_enter_for_a_mean(wanted: int, available: int) -> None:
    n = entering(wanted, [Ramp()], 28, available)
    assert 1 <= n <= available
    assert mean([Ramp()], 28, n) <= wanted or n == 1
    assert n == available or mean([Ramp()], 28, n + 1) > wanted
