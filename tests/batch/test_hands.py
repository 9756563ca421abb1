"""Whose fault it was that a worker died, and how long its first task may take."""

from __future__ import annotations

import pytest

from tokenreduce.batch.hands import IN_HAND, Hands
from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.cache.digest import Digest, FileState


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def task(number: int, *, alone: bool = False) -> Task:
    digest = Digest(f"{number:064}", FileState(1, number, 1, 1, 1), memoised=False, fresh=False)
    wanted = (Wanted(f"{number}a", "k", "Q?"), Wanted(f"{number}b", "l", "R?"))
    return Task(number, f"{number}.mp4", digest, wanted, alone)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hands(clock: Clock) -> Hands:
    made = Hands(("a", "b"), clock)
    for worker in ("a", "b"):
        made[worker].ready = True
    return made


def test_the_one_with_the_least_in_hand_takes_the_next(hands: Hands) -> None:
    order = []
    for number in range(2 * IN_HAND):
        worker = hands.taker()
        assert worker is not None
        hands.give(worker, task(number))
        order.append(worker)
    assert order == ["a", "b"] * IN_HAND
    assert hands.taker() is None
    hands.done("b", 1)
    assert hands.taker() == "b"
    hands["b"].gone = True
    assert hands.taker() is None
    assert hands.working == ("a",)


def test_with_two_in_hand_both_go_on_alone_and_the_second_death_tells(hands: Hands) -> None:
    hands.give("a", task(1))
    hands.give("a", task(2))
    for number in (1, 2):
        owed = hands["a"].of(number)
        assert owed is not None
        owed.part = "decode"
    first = hands["a"].of(1)
    assert first is not None
    del first.open["1a"]  # this row was told before
    after = hands.died("a")
    assert after.guilty == ()
    assert [(one.number, one.alone, len(one.wanted)) for one in after.again] == [
        (1, True, 1),
        (2, True, 2),
    ]
    hands["a"].ready = True
    hands.give("a", after.again[1])
    owed = hands["a"].of(2)
    assert owed is not None
    owed.part = "prefill"
    after = hands.died("a")
    assert [one.number for one in after.guilty] == [2]
    assert after.again == ()


def test_what_had_not_begun_is_not_suspected(hands: Hands) -> None:
    hands.give("a", task(1))
    hands.give("a", task(2))
    owed = hands["a"].of(1)
    assert owed is not None
    owed.part = "answer"
    after = hands.died("a")
    assert [(one.number, one.alone) for one in after.again] == [(1, True), (2, False)]


def test_a_task_whose_rows_were_all_told_is_over(hands: Hands) -> None:
    hands.give("a", task(1))
    owed = hands["a"].of(1)
    assert owed is not None
    owed.part = "answer"
    owed.open.clear()
    assert hands.died("a").again == ()
    assert hands.empty


def test_time_counts_from_when_it_is_the_first(hands: Hands, clock: Clock) -> None:
    hands.give("a", task(1))
    clock.now += 8
    hands.give("a", task(2))
    assert hands.late(10) == ()
    clock.now += 3
    assert [(worker, one.number) for worker, one in hands.late(10)] == [("a", 1)]
    hands.done("a", 1)
    clock.now += 9
    assert hands.late(10) == ()
    clock.now += 2
    assert [one.number for _, one in hands.late(10)] == [2]
    hands["a"].killed_for = 2
    assert hands.late(10) == ()


def test_of_a_worker_ended_for_time_only_that_task_is_guilty(hands: Hands) -> None:
    hands.give("a", task(1))
    hands.give("a", task(2))
    for number in (1, 2):
        owed = hands["a"].of(number)
        assert owed is not None
        owed.part = "decode"
    hands["a"].killed_for = 1
    after = hands.died("a")
    assert [one.number for one in after.guilty] == [1]
    assert [(one.number, one.alone) for one in after.again] == [(2, False)]
    assert hands["a"].killed_for is None
