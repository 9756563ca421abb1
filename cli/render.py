"""All that the command line shows, and the only place that prints.

stdout carries what was asked for: an answer, a JSON object, a listing. Everything else goes to
stderr. Rich is imported only where something is drawn with it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from tokenreduce.errors import TokenReduceError
from tokenreduce.events import Part
from tokenreduce.result import Answer

from .cost import cost_lines, laid_out
from .safe import Cleaner, draws_unicode, escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.text import Text as Styled


def error(message: str) -> None:
    """`error: <message>` on stderr, always one line."""
    _show(_labelled("error", "bold red", message))


def warning(message: str) -> None:
    """`warning: <message>` on stderr, always one line."""
    _show(_labelled("warning", "yellow", message))


def line(text: str = "") -> None:
    """One safe line on stdout."""
    _encodable()
    _put(f"{escaped(text)}\n")


def json_object(value: Any) -> None:
    """One object on one line of stdout, in ASCII whatever the locale."""
    _put(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n")


def columns(rows: Iterable[Sequence[str]]) -> None:
    """Rows on stdout, each column as wide as its widest cell; the last is wrapped on a terminal."""
    safe = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in safe) for i in range(len(safe[0]))] if safe else []
    _encodable()
    for row in safe:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        for text in _wrapped("".join(f"{cell}  " for cell in cells), row[-1]):
            _put(text.rstrip() + "\n")


def _wrapped(before: str, last: str) -> list[str]:
    """`last` after `before`, or below it, within the columns of a terminal."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(before) + len(last) <= width:
        return [before + last]
    if width - len(before) >= 30:
        indent = " " * len(before)
        return textwrap.wrap(last, width, initial_indent=before, subsequent_indent=indent)
    return [before, *textwrap.wrap(last, width, initial_indent="    ", subsequent_indent="    ")]


def cost(answer: Answer) -> None:
    """The cost table, on stderr."""
    console = _stderr()
    if sys.stdout.isatty():
        _show("")  # the answer stands right above
    unicode = draws_unicode(sys.stderr, os.environ, sys.platform)
    for label, text in cost_lines(answer, console.width, unicode=unicode):
        whole = laid_out(label, text)
        _show(_styled(whole, "cyan", len(label)))


def _labelled(label: str, style: str, message: str) -> Styled:
    return _styled(f"{label}: {escaped(message)}", style, len(label) + 1)


def _styled(whole: str, style: str, length: int) -> Styled:
    """Rich text, no markup read, whose first `length` characters are styled."""
    from rich.text import Text

    text = Text(whole)
    text.stylize(style, 0, length)
    return text


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def _show(text: Styled | str) -> None:
    """One line on stderr. What cannot be written there is no reason to fail."""
    with suppress(OSError):
        _stderr().print(text, soft_wrap=True)


def _put(text: str) -> None:
    """Text on stdout, at once. TokenReduceError if it cannot be written, as on a full disk."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TokenReduceError(
            f"the output cannot be written: {error.strerror or error}; write it elsewhere"
        ) from error


def _encodable() -> None:
    """Lets stdout show what its encoding cannot write as backslash escapes, not as a failure."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


class Progress(Protocol):
    """Shows which part of the work is going on."""

    def begin(self, part: Part, total: int | None) -> None: ...

    def advance(self, part: Part, done: int) -> None: ...

    def end(self, part: Part) -> None: ...

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
    console = _stderr()
    if not console.is_terminal or console.is_dumb_terminal:
        return Lines()
    return Bars(console, unicode=draws_unicode(sys.stderr, os.environ, sys.platform))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how many of how many are done; shows it on stderr, on a terminal only."""
    console = _stderr()
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

    def warn(self, message: str) -> None: ...

    def close(self) -> None: ...


class Lines:
    """One line for each part as it begins, for logs and terminals that cannot move the cursor."""

    def begin(self, part: Part, total: int | None) -> None:
        _show(part if total is None else f"{part} {total:,}")

    def advance(self, part: Part, done: int) -> None: ...

    def end(self, part: Part) -> None: ...

    def warn(self, message: str) -> None:
        warning(message)

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

    def begin(self, part: Part, total: int | None) -> None:
        if part == "load":
            # The hub's client draws bars of its own while it downloads.
            self._live.stop()
            self._console.print("loading the model")
            return
        self._live.start()
        count = "" if total is None else f"0/{total:,}"
        self._tasks[part] = (self._live.add_task(part, total=total, count=count), total)

    def advance(self, part: Part, done: int) -> None:
        if part in self._tasks:
            task, total = self._tasks[part]
            count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
            self._live.update(task, completed=done, count=count)

    def end(self, part: Part) -> None:
        if part in self._tasks:
            task, _ = self._tasks[part]
            self._live.update(task, total=1, completed=1)

    def warn(self, message: str) -> None:
        self._console.print(_labelled("warning", "yellow", message), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


class AnswerStream:
    """The answer on stdout, piece by piece; cleaned of escape sequences on a terminal."""

    def __init__(self) -> None:
        _encodable()
        self._cleaner = Cleaner() if sys.stdout.isatty() else None
        self._last = ""
        self._broken = False

    @property
    def begun(self) -> bool:
        return self._last != ""

    def write(self, piece: str) -> None:
        text = self._cleaner.clean(piece) if self._cleaner else piece
        if text and not self._broken:
            self._last = text[-1]
            self._broken = True  # until it is written
            _put(text)
            self._broken = False

    def close(self) -> None:
        """Ends the last line, so that what follows begins its own."""
        if self._last not in ("", "\n"):
            self.write("\n")
