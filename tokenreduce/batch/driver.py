"""Drives a batch: hands out tasks, puts what comes back into the ledger, outlives its workers.

One thread, one loop. Knows neither how a file is asked nor how anything is shown.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import replace
from typing import Literal

from tokenreduce import errors
from tokenreduce.batch import messages as m
from tokenreduce.batch.exporting import Projection
from tokenreduce.batch.feeding import Feed
from tokenreduce.batch.hands import Hands
from tokenreduce.batch.happenings import (
    BatchWatcher,
    FileDone,
    Known,
    Recorded,
    Stage,
    Stopping,
    Trouble,
    WorkerGone,
    WorkerReady,
    ignore,
)
from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.owing import Owing
from tokenreduce.batch.policy import Outcome, Policy, Tries
from tokenreduce.batch.pool import Pool
from tokenreduce.batch.rows import Failure, Row, now
from tokenreduce.errors import CapacityError, ModelError, TokenReduceError
from tokenreduce.video.inputs import shown

_TICK_SECONDS = 0.2
_AT_ONCE = 64  # messages, or offers, before there is a look at what else is to be done
_MOST_FAILED_STARTS = 2


class Driver:
    """One run over a feed of jobs. `interrupt` may be called from a signal handler."""

    def __init__(
        self,
        ledger: Ledger,
        projection: Projection,
        owing: Owing,
        pool: Pool,
        policy: Policy | None = None,
        watch: BatchWatcher = ignore,
    ) -> None:
        self._ledger = ledger
        self._projection = projection
        self._owing = owing
        self._pool = pool
        self._policy = policy or Policy()
        self._watch = watch
        self._hands = Hands(pool.workers)
        self._host = socket.gethostname()
        self._hosts: dict[str, str] = {}  # of workers elsewhere
        self._waiting: deque[Task] = deque()
        self._tries = Tries(self._policy.retries)
        self._interrupts = 0
        self._started = self._told_stop = self._more = False
        self.outcome = Outcome()

    def interrupt(self) -> int:
        """Once: answers on the way are waited for; twice: they are dropped. Says which it was."""
        self._interrupts += 1
        return self._interrupts

    def run(self, feed: Feed) -> Outcome:
        """Until all is asked, or the run is stopped. Raises a TokenReduceError where no worker can
        work, or the ledger cannot be written; what is recorded stays."""
        while not self._finished(feed):
            if self._interrupts:
                self._stop("interrupted")
            if self.outcome.stopped is not None:
                self._more = False
                self._wind_down()
            else:
                self._hand_out(feed)
            message, heard = self._pool.next(0.0 if self._more else _TICK_SECONDS), 0
            while message is not None:
                self._hear(message)
                heard += 1
                message = self._pool.next(0.0) if heard < _AT_ONCE else None
            self._end_the_late()
        if self._interrupts:
            self._stop("interrupted")
        return self.outcome

    def _finished(self, feed: Feed) -> bool:
        if self._interrupts > 1:
            return True
        idle = self._hands.empty
        if self.outcome.stopped is not None:
            return idle
        return idle and feed.exhausted and not self._waiting

    def _stop(self, why: Literal["interrupted", "failures"]) -> None:
        if self.outcome.stopped is None:
            self.outcome.stopped = why
            self._watch(Stopping(why))

    def _wind_down(self) -> None:
        """Waits for answers on the way, and for nothing else."""
        for worker in self._hands.working:
            if not self._told_stop and self._hands[worker].answering:
                self._pool.stop(worker)
            elif self._hands[worker].owed and not self._hands[worker].answering:
                self._pool.kill(worker, "was stopped")
                self._hands[worker].owed.clear()
        self._told_stop = True

    def _hand_out(self, feed: Feed) -> None:
        self._more = False
        while (worker := self._room()) is not None:
            task = self._next(feed)
            if task is None:
                return
            if not self._started:
                self._started = True
                for one in self._hands.working:
                    self._pool.start(one)
            if worker == "":  # none is ready yet: the first task waits for them
                self._waiting.appendleft(task)
                return
            self._hands.give(worker, task)
            self._pool.give(worker, task)

    def _room(self) -> str | None:
        """A worker that takes a task; "" where none has been started yet, so that it is known
        whether any is needed."""
        return self._hands.taker() if self._started else ""

    def _next(self, feed: Feed) -> Task | None:
        if self._waiting:
            return self._waiting.popleft()
        for _ in range(_AT_ONCE):
            offer = feed.take(0.0 if self._started else _TICK_SECONDS)
            if offer is None:
                return None
            planned = self._owing.plan(offer)
            for row in planned.unread:
                self._record(row)
            for row in planned.copied:
                self._record(row, copied=True)
            if planned.known:
                self.outcome.known += planned.known
                self.outcome.known_failed += planned.failed
                self._watch(Known(offer.job.path, planned.known, planned.failed))
            if planned.task is not None:
                return planned.task
            if self._interrupts or self.outcome.stopped is not None:
                return None
        self._more = True  # all that was there by now is known, or cannot be read
        return None

    def _hear(self, message: m.Message) -> None:
        match message:
            case m.Ready(worker, device, seconds, host, told):
                self._hosts[worker] = host or self._host
                self._hands[worker].ready, self._hands[worker].failed_starts = True, 0
                self._watch(WorkerReady(worker, device, seconds))
                for text in told:
                    self._watch(Trouble(text, worker=worker))
            case m.Working(worker, number, part, done, total):
                owed = self._hands[worker].of(number)
                if owed is not None:
                    owed.part, owed.began = part, owed.began or now()
                    self._watch(Stage(worker, owed.task.path, part, done, total))
            case m.Warning(worker, number, text):
                owed = self._hands[worker].of(number)
                if owed is not None:
                    self._watch(Trouble(text, owed.task.path, worker))
            case m.Replied():
                self._replied(message)
            case m.Done(worker, number):
                owed = self._hands.done(worker, number)
                if owed is not None:
                    self._again(replace(owed.task, wanted=tuple(owed.open.values())))
                    self._watch(FileDone(worker, owed.task.path))
            case m.Died(worker, reason, refused):
                self._died(worker, reason, refused)

    def _replied(self, told: m.Replied) -> None:
        owed = self._hands[told.worker].of(told.task)
        wanted = None if owed is None else owed.open.get(told.id)
        if owed is None or wanted is None:
            return
        owed.began = now()  # the next one, if there is one
        if told.failure is not None and self._tries.again(wanted.id, told.failure):
            self._watch(Trouble(f"trying again: {told.failure.reason}", owed.task.path))
            return  # still open: asked again when the task is done
        del owed.open[told.id]
        row = replace(
            self._row(owed.task, wanted, told.worker, told.started),
            status="answered" if told.answer is not None else "failed",
            answer=told.answer,
            failure=told.failure,
            stepped_down=told.stepped_down,
            trace=told.trace,
        )
        self._record(self._owing.unread(row) if told.unread else row, wanted)

    def _again(self, task: Task) -> None:
        if task.wanted:
            self._waiting.append(task)

    def _died(self, worker: str, reason: str, refused: str | None) -> None:
        self._watch(WorkerGone(worker))
        hand = self._hands[worker]
        hand.failed_starts += not hand.ready
        late, began = hand.killed_for is not None, {one.task.number: one.began for one in hand.owed}
        aftermath = self._hands.died(worker)
        if self.outcome.stopped is not None:
            hand.gone = True
            return
        for task in aftermath.guilty:
            kind = "Timeout" if late else "WorkerDied"
            failure = Failure(kind, f"{shown(task.path)}: the worker {reason}")
            self._fail(task, worker, failure, began[task.number] or now())
        for task in aftermath.again:
            if task.alone:
                self._tries.lost(wanted.id for wanted in task.wanted)
        self._waiting.extendleft(reversed(aftermath.again))
        hand.gone = refused is not None or hand.failed_starts >= _MOST_FAILED_STARTS
        if hand.gone and not self._hands.working:
            if refused is not None:
                raise _refusal(refused)(reason)
            raise CapacityError(f"no worker can start: the last one {reason}")
        self._watch(Trouble(f"worker {worker} {reason}", worker=worker))
        if not hand.gone:
            self._pool.start(worker)

    def _fail(self, task: Task, worker: str, failure: Failure, began: str) -> None:
        left = tuple(one for one in task.wanted if self._tries.again(one.id, failure))
        for wanted in task.wanted:
            if wanted not in left:
                self._record(replace(self._row(task, wanted, worker, began), failure=failure))
        self._again(replace(task, wanted=left, alone=True))

    def _row(self, task: Task, wanted: Wanted, worker: str, started: str) -> Row:
        return Row(
            id=wanted.id,
            key=wanted.key,
            settings=self._owing.settings,
            content=task.digest.value,
            file=task.path,
            question=wanted.question,
            status="failed",
            attempts=wanted.attempts + self._tries.before(wanted.id) + 1,
            started=started,
            finished=now(),
            host=self._hosts.get(worker, self._host),
            worker=worker,
        )

    def _record(self, row: Row, wanted: Wanted | None = None, *, copied: bool = False) -> None:
        self._ledger.record(row, forget=self._owing.placeholder(row.file, row.question))
        self._projection.append(row)
        answered = row.status == "answered"
        self.outcome.answered += answered
        self.outcome.failed += not answered
        self._tries.forget(row.id if wanted is None else wanted.id)
        self._watch(Recorded(row, copied))
        if self.outcome.failed >= (self._policy.max_failures or self.outcome.failed + 1):
            self._stop("failures")
        for other in self._owing.ended(row, wanted):
            self._record(other, copied=True)

    def _end_the_late(self) -> None:
        limit = self._policy.timeout_seconds
        if limit is None:
            return
        for worker, task in self._hands.late(limit):
            self._hands[worker].killed_for = task.number
            self._pool.kill(worker, f"was stopped, for it took more than {limit:g} s")


def _refusal(name: str) -> type[TokenReduceError]:
    found = getattr(errors, name, ModelError)
    return found if issubclass(found, TokenReduceError) else ModelError
