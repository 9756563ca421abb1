"""What each worker has in hand, and what follows when one dies; knows no ledger and no process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.events import Part

MOST_DEATHS = 2
"""Workers that one file may take with it before it is left alone."""

IN_HAND = 3
"""Tasks a worker has: one is answered while the next is encoded and the one after it decoded."""

_ANSWERING = ("prefill", "answer")


@dataclass
class Owed:
    """A task that a worker has. open: rows not told yet, by id; part: where it is, None before it
    has begun; since: when it became the worker's first, by the clock; began: the row at hand, as a
    date, "" before it has."""

    task: Task
    open: dict[str, Wanted]
    part: Part | None = None
    since: float | None = None
    began: str = ""


@dataclass
class Hand:
    """One worker. deaths: since it last was ready; killed_for: the task that took too long."""

    ready: bool = False
    owed: list[Owed] = field(default_factory=list)
    failed_starts: int = 0
    killed_for: int | None = None
    gone: bool = False

    @property
    def free(self) -> bool:
        return self.ready and not self.gone and len(self.owed) < IN_HAND

    @property
    def answering(self) -> bool:
        """Whether an answer is on the way that is worth waiting for."""
        return bool(self.owed) and self.owed[0].part in _ANSWERING

    def of(self, task: int) -> Owed | None:
        return next((owed for owed in self.owed if owed.task.number == task), None)


@dataclass(frozen=True)
class Aftermath:
    """What is left by a worker that died. guilty: tasks whose rows fail; again: tasks to be given
    to another."""

    guilty: tuple[Task, ...]
    again: tuple[Task, ...]


class Hands:
    """All workers' hands.

    >>> hands = Hands(("cpu",))
    >>> hands["cpu"].ready = True
    >>> hands.taker() == "cpu"
    True
    """

    def __init__(
        self, workers: tuple[str, ...], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hands = {worker: Hand() for worker in workers}
        self._deaths: dict[str, int] = {}
        self._clock = clock

    def __getitem__(self, worker: str) -> Hand:
        return self._hands[worker]

    @property
    def working(self) -> tuple[str, ...]:
        """Those that are not gone for good."""
        return tuple(worker for worker, hand in self._hands.items() if not hand.gone)

    @property
    def empty(self) -> bool:
        return not any(hand.owed for hand in self._hands.values())

    def taker(self) -> str | None:
        """Who takes the next task: the one with the least in hand."""
        free = [(len(hand.owed), worker) for worker, hand in self._hands.items() if hand.free]
        return min(free)[1] if free else None

    def give(self, worker: str, task: Task) -> None:
        hand = self._hands[worker]
        hand.owed.append(Owed(task, {one.id: one for one in task.wanted}))
        self._first(hand)

    def done(self, worker: str, task: int) -> Owed | None:
        """The worker has told all of it."""
        hand = self._hands[worker]
        owed = hand.of(task)
        if owed is not None:
            hand.owed.remove(owed)
            self._first(hand)
        return owed

    def late(self, most_seconds: float) -> tuple[tuple[str, Task], ...]:
        """Workers whose first task takes longer than that, and have not been killed for it."""
        now = self._clock()
        found = []
        for worker, hand in self._hands.items():
            first = hand.owed[0] if hand.owed else None
            if first is None or first.since is None or hand.killed_for is not None:
                continue
            if now - first.since > most_seconds:
                found.append((worker, first.task))
        return tuple(found)

    def died(self, worker: str) -> Aftermath:
        """Who was guilty cannot be told where two tasks had begun, so each goes on alone; one
        that is alone when its second worker dies is guilty."""
        hand = self._hands[worker]
        owed, hand.owed = hand.owed, []
        late, hand.killed_for, hand.ready = hand.killed_for, None, False
        guilty: list[Task] = []
        again: list[Task] = []
        for one in owed:
            left = replace(one.task, wanted=tuple(one.open.values()))
            if not left.wanted:
                continue
            if late is not None:
                (guilty if one.task.number == late else again).append(left)
            elif one.part is None:
                again.append(left)
            elif self._another_death(left):
                guilty.append(left)
            else:
                again.append(replace(left, alone=True))
        return Aftermath(tuple(guilty), tuple(again))

    def _another_death(self, task: Task) -> bool:
        content = task.digest.value
        self._deaths[content] = self._deaths.get(content, 0) + 1
        return task.alone and self._deaths[content] >= MOST_DEATHS

    def _first(self, hand: Hand) -> None:
        """A task's time begins when it is the first: before, it waits for another's answers."""
        if hand.owed and hand.owed[0].since is None:
            hand.owed[0].since = self._clock()
