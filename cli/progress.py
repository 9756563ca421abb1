"""How far the work is, drawn through `render`; does not know what the parts of the work do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from tokenreduce.events import Part

from . import render
from .safe import draws_unicode, escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


_UNITS: dict[Part, str] = {"download": " MB"}


class Progress(Protocol):
    """Shows which part of the work is going on."""

    def begin(self, part: Part, total: int | None) -> None: ...

    def advance(self, part: Part, done: int) -> None: ...

    def end(self, part: Part) -> None: ...

    def setting(self, label: str, number: int, of: int) -> None:
        """Of several settings, this one is being answered now."""
        ...

    def warn(self, message: str) -> None:
        """Shows a warning at once, without harm to what is being drawn."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was; more than once is fine."""
        ...


def progress(*, quiet: bool) -> Progress:
    """Bars on a terminal, a plain line a part elsewhere, nothing when quiet."""
    if quiet:
        return Silence()
    console = render.stderr()
    if not console.is_terminal or console.is_dumb_terminal:
        return Lines()
    return Bars(console, unicode=draws_unicode(sys.stderr, os.environ, sys.platform))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how many of how many are done; shows it on stderr, on a terminal only."""
    console = render.stderr()
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda _done, _of: None
        return
    with console.status(what, spinner="line") as status:
        yield lambda done, of: status.update(f"{what} {done:,}/{of:,}")


class Silence:
    """Shows nothing."""

    def begin(self, part: Part, total: int | None) -> None: ...

    def advance(self, part: Part, done: int) -> None: ...

    def end(self, part: Part) -> None: ...

    def setting(self, label: str, number: int, of: int) -> None: ...

    def warn(self, message: str) -> None: ...

    def close(self) -> None: ...


class Lines:
    """One line for each part as it begins, for logs and terminals that cannot move the cursor; of a
    download, which may take an hour, one for each tenth, or each gigabyte."""

    def __init__(self) -> None:
        self._step, self._of, self._next = 0, "", 0

    def begin(self, part: Part, total: int | None) -> None:
        if part == "download":
            self._step = self._next = 1000 if total is None else max(1, total // 10)
            self._of = "" if total is None else f" of {total:,}"
        render.show(part if total is None else f"{part} {total:,}{_UNITS.get(part, '')}")

    def advance(self, part: Part, done: int) -> None:
        if part == "download" and done >= self._next:
            self._next = done - done % self._step + self._step
            render.show(f"{part} {done:,}{self._of}{_UNITS[part]}")

    def end(self, part: Part) -> None: ...

    def setting(self, label: str, number: int, of: int) -> None:
        render.show(f"setting {number:,} of {of:,}: {escaped(label)}")

    def warn(self, message: str) -> None:
        render.warning(message)

    def close(self) -> None: ...


class Bars:
    """One live bar a part on stderr, gone once it closes."""

    def __init__(self, console: Console, *, unicode: bool) -> None:
        from rich.progress import (
            BarColumn,
            ProgressColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.progress import Progress as Live

        columns: list[ProgressColumn] = [
            SpinnerColumn("dots" if unicode else "line", finished_text=" "),
            TextColumn("{task.description:<8}", markup=False),
            *([BarColumn(bar_width=20)] if unicode else []),
            TextColumn("{task.fields[count]:>13}", markup=False),
            TimeElapsedColumn(),
        ]
        # Redirecting would send the answer, which is on stdout, to stderr.
        self._live = Live(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._console = console
        self._tasks: dict[Part, tuple[TaskID, int | None]] = {}
        self._setting: TaskID | None = None

    def begin(self, part: Part, total: int | None) -> None:
        if part == "load":
            # Nothing is counted: a line that stays says what is waited for.
            self._live.stop()
            self._console.print("loading the model")
            return
        self._live.start()
        count = "" if total is None else f"0/{total:,}{_UNITS.get(part, '')}"
        self._tasks[part] = (self._live.add_task(part, total=total, count=count), total)

    def advance(self, part: Part, done: int) -> None:
        if part in self._tasks:
            task, total = self._tasks[part]
            count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
            count += _UNITS.get(part, "")
            self._live.update(task, completed=done, count=count)

    def end(self, part: Part) -> None:
        if part in self._tasks:
            task, _ = self._tasks[part]
            self._live.update(task, total=1, completed=1)
            if part == "download":
                self._live.stop()  # loading goes on, and shows nothing that moves

    def setting(self, label: str, number: int, of: int) -> None:
        self._live.start()
        count = f"{number:,}/{of:,}  {escaped(label)}"
        if self._setting is None:
            self._setting = self._live.add_task("setting", total=of, count=count)
        self._live.update(self._setting, completed=number - 1, count=count)

    def warn(self, message: str) -> None:
        self._console.print(render.labelled("warning", "yellow", message), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()
