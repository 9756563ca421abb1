"""A pool whose workers are a function: they answer, fail, die or hang as a test says.

No torch, so a driver with it starts in a tenth of a second.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenreduce.batch import messages as m
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.rows import Failure, now


@dataclass(frozen=True)
class Unread:
    """A failure of a file that is not what it was."""

    failure: Failure


Does = str | Failure | Unread | None
"""An answer, a failure, "die" to end the worker, or None to hang."""
DIE = "die"


@dataclass
class StubPool:
    """behave: what happens at a question of a file: (file's name, question) -> Does."""

    behave: Callable[[str, str], Does]
    workers: tuple[str, ...] = ("a",)
    refused: dict[str, str] = field(default_factory=dict)
    warned: tuple[str, ...] = ()  # of a device, by every worker that is ready
    started: list[str] = field(default_factory=list)
    given: list[tuple[str, Task]] = field(default_factory=list)
    ended: bool = False
    _told: deque[m.Message] = field(default_factory=deque)
    _hands: dict[str, deque[Task]] = field(default_factory=dict)
    _hanging: set[str] = field(default_factory=set)
    _stopping: set[str] = field(default_factory=set)

    def start(self, worker: str) -> None:
        self.started.append(worker)
        self._hands[worker] = deque()
        if worker in self.refused:
            self._told.append(m.Died(worker, "has no memory", self.refused[worker]))
        else:
            self._told.append(m.Ready(worker, "cpu", 0.0, told=self.warned))

    def give(self, worker: str, task: Task) -> None:
        self.given.append((worker, task))
        self._hands[worker].append(task)

    def stop(self, worker: str) -> None:
        self._stopping.add(worker)

    def kill(self, worker: str, reason: str) -> None:
        self._die(worker, reason)

    def close(self) -> None:
        self.ended = True

    def next(self, timeout_seconds: float) -> m.Message | None:
        if not self._told:
            for worker in self.workers:
                if self._hands.get(worker) and worker not in self._hanging:
                    self._step(worker)
                    break
        return self._told.popleft() if self._told else None

    def _step(self, worker: str) -> None:
        """All of its first task; of the one after it, that it is being prepared."""
        hand = self._hands[worker]
        for task in list(hand)[: 1 if hand[0].alone else 2]:
            self._told.append(m.Working(worker, task.number, "decode"))
        task = hand[0]
        for wanted in task.wanted:
            self._told.append(m.Working(worker, task.number, "prefill"))
            does = self.behave(os.path.basename(task.path), wanted.question)
            if does is None:
                self._hanging.add(worker)
                return
            if does == DIE:
                self._die(worker, "crashed (SIGSEGV)")
                return
            unread = isinstance(does, Unread)
            found = does.failure if isinstance(does, Unread) else does
            failure = found if isinstance(found, Failure) else None
            answer = None if failure else {"question": wanted.question, "answer": does}
            self._told.append(
                m.Replied(
                    *(worker, task.number, wanted.id, now(), answer),
                    failure=failure,
                    unread=unread,
                )
            )
            if worker in self._stopping:
                self._die(worker, "ended")
                return
        hand.popleft()
        self._told.append(m.Done(worker, task.number))

    def _die(self, worker: str, reason: str) -> None:
        self._hands[worker] = deque()
        self._hanging.discard(worker)
        self._told.append(m.Died(worker, reason))
