"""How far a batch is, in words, and as plain lines for logs; knows no terminal."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from .batch_tally import Tally
from .cost import quantity

EVERY = 30.0
"""Seconds between two lines, at least."""


def counts(tally: Tally) -> list[str]:
    """`2 failed`, `32 known before`: what there is besides answers."""
    words = []
    if tally.failed:
        words.append(f"{tally.failed:,} failed")
    if tally.known:
        words.append(f"{tally.known:,} known before")
    return words


def pace(tally: Tally, now: float) -> list[str]:
    """`31 rows/min`, `about 9 min left`; nothing as long as nothing was asked."""
    rate, left = tally.rows_per_minute(now), tally.seconds_left(now)
    words = [] if rate is None else [per_minute(rate)]
    return words if not left else [*words, about(left)]


def per_minute(rate: float) -> str:
    """
    >>> per_minute(31.4), per_minute(3.14), per_minute(0.0314)
    ('31 rows/min', '3.1 rows/min', '0.031 rows/min')
    """
    return f"{_figures(rate)} rows/min"


def about(seconds: float) -> str:
    """No more exact than it can be; minutes are rounded up.

    >>> [about(seconds) for seconds in (4, 61, 539, 9000, 200000)]
    ['under a minute left', 'about 2 min left', 'about 9 min left', 'about 2.5 h left', \
'about 2.3 days left']
    """
    if seconds < 60:
        return "under a minute left"
    if seconds <= 120 * 60:
        return f"about {ceil(seconds / 60)} min left"
    hours = seconds / 3600
    return (
        f"about {_figures(hours)} h left"
        if hours < 48
        else f"about {_figures(hours / 24)} days left"
    )


def counted(count: int, noun: str) -> str:
    """
    >>> counted(1, "row"), counted(4000, "row")
    ('1 row', '4,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _figures(value: float) -> str:
    """Two figures are enough below 10."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def saved(tally: Tally) -> list[str]:
    """`45.2 M visual tokens saved (75%)`; nothing as long as none were read."""
    sums = tally.sums
    if not sums.raw:
        return []
    less = sums.raw - sums.merged
    count = f"{less:,}" if less < 10_000 else quantity(less, "").strip()
    return [f"{count} visual tokens saved ({less / sums.raw:.0%})"]


class Lines:
    """A line when it begins, one now and then, one when it ends. write: shows a line.

    Nothing is shown as long as nothing happens: then there is nothing new to tell.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._begun = False
        self._last: float | None = None
        self._told = 0

    def planned(self, tally: Tally, now: float) -> None:
        """The first line. Once is enough, even if more is found later."""
        if self._begun:
            return
        self._begun = True
        files, workers = counted(tally.files, "file"), counted(tally.workers, "worker")
        self._write(f"batch: {counted(tally.rows, 'row')} of {files}, {workers}")
        self._last = now

    def tick(self, tally: Tally, now: float) -> None:
        """A line if one is due."""
        if self._last is None:
            self._last = now
        elif now - self._last >= EVERY:
            self._line(tally, now)

    def end(self, tally: Tally, now: float) -> None:
        """The last line, if there is more to say than before. More than once is fine."""
        if self._last is not None and tally.done != self._told:
            self._line(tally, now)

    def _line(self, tally: Tally, now: float) -> None:
        answered = f"{tally.answered:,}" + (f"/{tally.total:,}" if tally.rows else "")
        words = [f"{answered} answered", *counts(tally), *pace(tally, now)]
        self._write(f"batch: {', '.join(words)}")
        self._last, self._told = now, tally.done
