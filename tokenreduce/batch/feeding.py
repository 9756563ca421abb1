"""Digests files ahead of the workers, in a thread; knows neither the ledger nor workers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from tokenreduce.batch.jobs import Job
from tokenreduce.cache.digest import Digest, FileState, Memo, of_file
from tokenreduce.errors import TokenReduceError
from tokenreduce.video.inputs import checked, shown

AHEAD = 8
"""Files digested before anyone wants them."""


@dataclass(frozen=True)
class Offer:
    """A job whose file was read whole, or why it cannot be: then digest is None."""

    job: Job
    digest: Digest | None
    reason: str = ""


@dataclass(frozen=True)
class Memos:
    """Several memories as one: the first that knows, and all of them told."""

    each: tuple[Memo, ...]

    def recall(self, state: FileState) -> str | None:
        return next((value for memo in self.each if (value := memo.recall(state))), None)

    def remember(self, state: FileState, value: str) -> None:
        for memo in self.each:
            memo.remember(state, value)


class Feed:
    """Jobs as offers, in order, no more than AHEAD of whoever takes them. Leave the `with` block:
    the thread ends then."""

    def __init__(self, jobs: Iterable[Job], memo: Memo) -> None:
        self._jobs = jobs
        self._memo = memo
        self._offers: queue.Queue[Offer | BaseException | None] = queue.Queue(AHEAD)
        self._ended = threading.Event()
        self.exhausted = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def take(self, timeout_seconds: float = 0.0) -> Offer | None:
        """The next, or None if there is none yet; once `exhausted`, there will be none."""
        if self.exhausted:
            return None
        try:
            offer = self._offers.get(timeout_seconds > 0, timeout_seconds or None)
        except queue.Empty:
            return None
        if isinstance(offer, BaseException):
            raise offer
        self.exhausted = offer is None
        return offer

    def _read(self) -> None:
        try:
            for job in self._jobs:
                if not self._put(self._offer(job)):
                    return
            self._put(None)
        except BaseException as error:  # the driver's thread is to fail with it
            self._put(error)

    def _put(self, offer: Offer | BaseException | None) -> bool:
        while not self._ended.is_set():
            try:
                self._offers.put(offer, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def _offer(self, job: Job) -> Offer:
        try:
            checked(job.path)
        except TokenReduceError as error:
            return Offer(job, None, str(error))
        digest = of_file(job.path, self._memo)
        if digest is None:
            reason = f"{shown(job.path)}: cannot be read, or changes while it is read"
            return Offer(job, None, reason)
        return Offer(job, digest)
