"""All that the command line shows: the only place that prints, and `progress` draws through it.

stdout carries what was asked for: an answer, a JSON object, a listing. Everything else goes to
stderr. Rich is imported only where something is drawn with it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenreduce.errors import TokenReduceError
from tokenreduce.result import Answer

from .cost import TIE, cost_lines, laid_out
from .safe import Cleaner, draws_unicode, escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Styled


def error(message: str) -> None:
    """`error: <message>` on stderr, always one line."""
    show(labelled("error", "bold red", message))


def warning(message: str) -> None:
    """`warning: <message>` on stderr, always one line."""
    show(labelled("warning", "yellow", message))


def line(text: str = "") -> None:
    """One safe line on stdout."""
    _encodable()
    _put(f"{escaped(text)}\n")


def json_object(value: Any) -> None:
    """One object on one line of stdout, in ASCII whatever the locale."""
    _put(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n")


def raw(text: str) -> None:
    """Lines on stdout for another program to read."""
    _encodable()
    _put(text)


@contextmanager
def data() -> Iterator[BinaryIO]:
    """stdout for bytes that are no lines. TokenReduceError if they cannot be written."""
    with _writable():
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def columns(rows: Iterable[Sequence[str]], *, tied: bool = False) -> None:
    """Rows on stdout, each column as wide as its widest cell; the last is wrapped on a terminal.

    tied: `cost.TIE` holds a number and its unit together there, and is written as a space.
    """
    safe = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in safe) for i in range(len(safe[0]))] if safe else []
    _encodable()
    for row in safe:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        for text in _wrapped("".join(f"{cell}  " for cell in cells), row[-1]):
            _put((text.replace(TIE, " ") if tied else text).rstrip() + "\n")


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
    console = stderr()
    if sys.stdout.isatty():
        show("")  # the answer stands right above
    unicode = draws_unicode(sys.stderr, os.environ, sys.platform)
    for label, text in cost_lines(answer, console.width, unicode=unicode):
        whole = laid_out(label, text)
        show(_styled(whole, "cyan", len(label)))


def labelled(label: str, style: str, message: str) -> Styled:
    """`label: message`, made safe, as one line with the label in `style`."""
    return _styled(f"{label}: {escaped(message)}", style, len(label) + 1)


def _styled(whole: str, style: str, length: int) -> Styled:
    """Rich text, no markup read, whose first `length` characters are styled."""
    from rich.text import Text

    text = Text(whole)
    text.stylize(style, 0, length)
    return text


def stderr() -> Console:
    """A console on stderr that reads no markup in what it is given."""
    from rich.console import Console

    class Written(Console):
        """Rich's own way would point stdout at nothing, too, and exit with 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Written(stderr=True, markup=False, highlight=False, emoji=False)


def show(text: Styled | str) -> None:
    """One line on stderr. What cannot be written there is no reason to fail."""
    with suppress(OSError):
        stderr().print(text, soft_wrap=True)


def _put(text: str) -> None:
    """Text on stdout, at once. TokenReduceError if it cannot be written, as on a full disk."""
    with _writable():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def _writable() -> Iterator[None]:
    try:
        yield
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
