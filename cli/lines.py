"""Lines that someone types or pipes in, one at a time; does not know what they say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from tokenreduce.errors import InputError

from . import render

_MOST_BYTES = 1 << 20  # far above what the library accepts, so that its message tells the limit
_PROMPT = "> "


class Lines(Protocol):
    @property
    def typed(self) -> bool:
        """By someone at a terminal, who can put a line right."""
        ...

    def next(self) -> str | None:
        """Without white space around it; None where there are no more. Raises InputError for one
        that cannot be read, after which the next can be."""
        ...


def lines() -> Lines:
    """Of standard input. Raises InputError if it is closed."""
    if sys.stdin is None:
        raise InputError("standard input is closed: type questions, or pipe in one a line")
    return Typed() if sys.stdin.isatty() else Piped()


class Typed:
    """Behind a prompt, with what was typed before on the arrow keys where there is readline."""

    typed = True

    def __init__(self) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401  from here on it serves `input`

    def next(self) -> str | None:
        try:
            if sys.stdout.isatty():
                return input(_PROMPT).strip()
            render.stderr().print(_PROMPT, end="")  # answers are written to a file or a pipe
            return input().strip()
        except EOFError:
            render.show("")
            return None
        except UnicodeDecodeError:
            raise InputError("that is not valid UTF-8 text: type it again") from None


class Piped:
    """One question a line, UTF-8, no line longer than 1 MiB."""

    typed = False

    def __init__(self) -> None:
        self._lines = self._read()
        self._count = 0

    def next(self) -> str | None:
        content = next(self._lines, None)
        if content is None:
            return None
        self._count += 1
        if len(content) > _MOST_BYTES:
            raise InputError(f"line {self._count} is longer than 1 MiB: give one question a line")
        try:
            return content.decode("utf-8-sig" if self._count == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise InputError(f"line {self._count} is not valid UTF-8 text") from None

    def _read(self) -> Iterator[bytes]:
        """Lines, of endless ones the beginning."""
        stream = sys.stdin.buffer
        while content := stream.readline(_MOST_BYTES + 1):
            yield content
            while not content.endswith(b"\n") and content:
                content = stream.readline(_MOST_BYTES)
