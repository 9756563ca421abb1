"""What people see while a batch runs: decides what happening shows what, and draws it on stderr.

The driver calls it from one thread and never waits for a terminal: on one, a thread of its own
draws four times a second what there is to see by then.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from tokenreduce.batch.happenings import Happening, Planned, Stopping

from . import render
from .batch_lines import Lines
from .batch_live import Live, Picture
from .batch_notices import Label, Notice, Notices
from .batch_summary import summary_lines
from .batch_table import Workers, frame
from .batch_tally import Tally
from .safe import draws_unicode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Styled

    Lock = AbstractContextManager[Any]

_COLOURS: dict[Label, str] = {"failed": "red", "warning": "yellow", "stopping": "yellow"}
_WHY = {
    "interrupted": "finishing the current answers; Ctrl-C again drops them",
    "failures": "too many rows have failed; finishing the current answers",
}


class Display(Protocol):
    """Where it is shown."""

    def see(self, happening: Happening, now: float) -> None:
        """Called after the tally has counted it."""
        ...

    def say(self, notice: Notice) -> None: ...

    def close(self) -> None:
        """Leaves the terminal as it was; more than once is fine."""
        ...


class BatchView:
    """The watcher of one batch. Enter it before the run and leave it whatever happens.

    quiet   failures only
    clock   seconds that never go back
    """

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet, self._clock, self._began = quiet, clock, clock()
        self._tally, self._notices = Tally(), Notices()
        self._lock = threading.RLock()  # of all that a happening changes; held for moments
        self._display = _display(self._tally, self._lock, clock, quiet=quiet)

    def __enter__(self) -> BatchView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._tally.ending = True
        self._close()

    def __call__(self, happening: Happening) -> None:
        now = self._clock()
        with self._lock:
            if isinstance(happening, Stopping):
                self._stopping(happening)
            self._tally.see(happening, now)
            for notice in (*self._notices.see(happening, now), *self._notices.due(now)):
                self._display.say(notice)
            self._display.see(happening, now)

    def interrupted(self) -> None:
        """Says what the first Ctrl-C does, as `Stopping` does. To be called where happenings are
        told, not in a signal handler."""
        self(Stopping("interrupted"))

    def summary(self, output: str, ledger: str) -> None:
        """The table at the end, on stderr. output, ledger: where everything was written."""
        self._close()
        if self._quiet:
            return
        wall, width = self._clock() - self._began, render.stderr().width
        for label, line in summary_lines(self._tally, wall, output, ledger, width):
            render.show(_styled(line, "cyan", len(label)))

    def _stopping(self, happening: Stopping) -> None:
        if not self._tally.ending:  # said once
            self._display.say(Notice("stopping", _WHY[happening.why]))

    def _close(self) -> None:
        with self._lock:
            for notice in self._notices.rest():
                self._display.say(notice)
        self._display.close()


def _display(tally: Tally, lock: Lock, clock: Callable[[], float], *, quiet: bool) -> Display:
    if quiet:
        return Failures()
    console = render.stderr()
    # Not where a variable forces colours into a log: a log cannot move the cursor.
    if not (sys.stderr.isatty() and console.is_interactive):
        return Plain(tally, clock)
    unicode = draws_unicode(sys.stderr, os.environ, sys.platform)
    return Table(console, tally, lock, clock, unicode=unicode)


class Failures:
    """Shows failures and nothing else."""

    def see(self, happening: Happening, now: float) -> None: ...

    def say(self, notice: Notice) -> None:
        if notice.failure:
            render.show(_line(notice))

    def close(self) -> None: ...


class Plain:
    """Lines for logs and terminals that cannot move the cursor."""

    def __init__(self, tally: Tally, clock: Callable[[], float]) -> None:
        self._tally, self._clock, self._lines = tally, clock, Lines(render.show)

    def see(self, happening: Happening, now: float) -> None:
        if isinstance(happening, Planned):
            self._lines.planned(self._tally, now)
        self._lines.tick(self._tally, now)

    def say(self, notice: Notice) -> None:
        render.show(_line(notice))

    def close(self) -> None:
        self._lines.end(self._tally, self._clock())


class Table:
    """A bar and a line a worker, drawn in place, with notices above; gone once it closes.

    `see` and `say` are called with `lock` held, so that what is drawn fits together.
    """

    def __init__(
        self,
        console: Console,
        tally: Tally,
        lock: Lock,
        clock: Callable[[], float],
        *,
        unicode: bool,
    ) -> None:
        self._tally, self._lock, self._clock, self._unicode = tally, lock, clock, unicode
        self._workers = Workers()
        self._said: list[Notice] = []
        self._live = Live(console, self.picture)

    def see(self, happening: Happening, now: float) -> None:
        self._workers.see(happening, now)
        if not self._live.started:
            self._live.start()

    def say(self, notice: Notice) -> None:
        self._said.append(notice)

    def close(self) -> None:
        self._live.close()
        for notice in self._taken():
            render.show(_line(notice))

    def picture(self, width: int, height: int) -> Picture:
        """What there is to see now, and what was said since the last picture."""
        with self._lock:
            whole, workers = frame(
                self._tally, self._workers, self._clock(), width, height, unicode=self._unicode
            )
            said = self._taken()
        live = [_styled(line, "", 0) for line in whole]
        live[0].highlight_regex("[━#]+", "green")
        for line in live[1:]:
            line.highlight_regex(r"[\d,]+ failed", "red")
        live += [_styled(line, "cyan", len(line.split(" ", 1)[0])) for line in workers]
        return Picture([_line(notice) for notice in said], live)

    def _taken(self) -> list[Notice]:
        said, self._said = self._said, []
        return said


def _line(notice: Notice) -> Styled:
    return render.labelled(notice.label, _COLOURS[notice.label], notice.text)


def _styled(whole: str, style: str, length: int) -> Styled:
    """Rich text, no markup read, whose first `length` characters are styled."""
    from rich.text import Text

    text = Text(whole)
    text.stylize(style, 0, length)
    return text
