"""What a run does about failures, how often it tried, and how it ended; knows no worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tokenreduce.batch.rows import Failure

_MENDABLE = ("InputError", "SettingError")
"""Failures that another attempt would only repeat."""


@dataclass(frozen=True)
class Policy:
    """retries: further attempts at rows that failed by anything but their input; max_failures: rows
    that may fail before the run stops, None for any number; timeout_seconds: for one file, from
    when it is its worker's first, None for ever."""

    retries: int = 0
    max_failures: int | None = None
    timeout_seconds: float | None = 3600.0


@dataclass
class Outcome:
    """How a run ended. asked: rows it tried; known: rows that were there before, known_failed: of
    these, failures; stopped: why it ended before all was asked."""

    answered: int = 0
    failed: int = 0
    known: int = 0
    known_failed: int = 0
    stopped: Literal["interrupted", "failures"] | None = None

    @property
    def recorded(self) -> int:
        return self.answered + self.failed


class Tries:
    """Attempts at rows that are not recorded yet."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed = Counter[str]()
        self._lost = Counter[str]()

    def again(self, id: str, failure: Failure) -> bool:
        """Whether the row is tried once more after this failure."""
        if failure.kind in _MENDABLE or self._failed[id] >= self._retries:
            return False
        self._failed[id] += 1
        return True

    def lost(self, ids: Iterable[str]) -> None:
        """A worker died with them in hand."""
        self._lost.update(ids)

    def before(self, id: str) -> int:
        """Attempts of this run before the present one."""
        return self._failed[id] + self._lost[id]

    def forget(self, id: str) -> None:
        del self._failed[id], self._lost[id]
