"""Adds up what a batch tells: rows, failures, speed and cost; keeps no row and draws nothing."""

from __future__ import annotations

from collections import Counter, deque

from tokenreduce.batch.happenings import (
    Happening,
    Known,
    Planned,
    Recorded,
    Stage,
    Stopping,
    WorkerReady,
)
from tokenreduce.batch.rows import Row
from tokenreduce.batch.totals import Sums

_WINDOW = 200  # rows that the speed is measured over: a run that slows down shows it


class Tally:
    """How far a batch is. Tell it what happens, with the time on one monotonic clock, in seconds.

    files, rows            of all that was named
    answered, failed       in this run; kinds: the failures by type
    known, known_failed    rows that were there before, and how many of these as failures
    asked                  rows of this run that a worker really tried
    load_seconds           what the workers took until they were ready
    ending                 set where no further rows will be asked
    """

    def __init__(self) -> None:
        self.files = self.rows = self.workers = 0
        self.answered = self.failed = self.known = self.known_failed = 0
        self.asked = 0
        self.ending = False
        self.kinds: Counter[str] = Counter()
        self.load_seconds = 0.0
        self.sums = Sums()
        self._names: set[str] = set()
        self._moments: deque[float] = deque(maxlen=_WINDOW + 1)

    @property
    def done(self) -> int:
        return self.answered + self.failed + self.known

    @property
    def total(self) -> int:
        """Never less than is done, even if more was found than had been planned."""
        return max(self.rows, self.done)

    def see(self, happening: Happening, now: float) -> None:
        match happening:
            case Planned(files, rows, workers):
                self.files, self.rows, self.workers = files, rows, len(workers)
                self._names.update(workers)
            case Known(_, rows, failed):
                self.known += rows
                self.known_failed += failed
            case WorkerReady(worker, _, seconds):
                self.load_seconds += seconds
                self._begin(worker, now)
            case Stage(worker):
                self._begin(worker, now)
            case Stopping():
                self.ending = True
            case Recorded(row, copied):
                self._recorded(row, now, copied)

    def rows_per_minute(self, now: float) -> float | None:
        """Over the last rows that a worker really asked; None as long as there is none."""
        rows = len(self._moments) - 1
        if rows < 1 or now <= self._moments[0]:
            return None
        return rows / (now - self._moments[0]) * 60

    def seconds_left(self, now: float) -> float | None:
        """At this speed; None if that is unknown or they will not be asked."""
        rate = self.rows_per_minute(now)
        return None if rate is None or self.ending else (self.total - self.done) / rate * 60

    def _begin(self, worker: str, now: float) -> None:
        self._names.add(worker)
        if not self._moments:  # the clock of the speed starts with the first worker at work
            self._moments.append(now)

    def _recorded(self, row: Row, now: float, copied: bool) -> None:
        if row.status == "answered":
            self.answered += 1
            if not copied:
                self.sums.add(row.answer or {})
        else:
            self.failed += 1
            self.kinds[row.failure.kind if row.failure else "unknown"] += 1
        # A file that is not there fails at once, without a worker: it tells nothing of the speed.
        if not copied and (row.status == "answered" or row.worker in self._names):
            self._begin(row.worker, now)
            self._moments.append(now)
            self.asked += 1
