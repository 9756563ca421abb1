"""Rows written as JSON: one object a line, a list of objects, or an object of files.

Knows where each row stands, not what its columns mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenreduce.batch.written import COLUMNS, Written
from tokenreduce.errors import InputError
from tokenreduce.strict import shortened

_SPACE = re.compile(r"[ \t\r\n]*")


def of_line(text: str, name: str, line: int) -> Written:
    """The row on this line of a jsonl file. Raises InputError if it is no single object."""
    scan = _Scan(text.rstrip(), name, line)
    row = scan.value()
    if scan.peek():
        raise scan.wrong("more follows the object; give one object a line")
    return Written(line, _object(row, scan))


def of_document(text: str, name: str) -> Iterator[Written]:
    """A list of objects, or an object of files, each with its question or a list of them.

    Raises InputError where it is anything else.
    """
    scan = _Scan(text, name, 1)
    first = scan.peek()
    if first == "[":
        for line in scan.items("]"):
            yield Written(line, _object(scan.value(), scan))
    elif first == "{":
        yield from _by_file(scan)
    elif first:
        raise scan.wrong("it must be a list of objects, or an object of files and questions")
    if scan.peek():
        raise scan.wrong("more follows; if it has one object a line, end its name in .jsonl")


def _by_file(scan: _Scan) -> Iterator[Written]:
    for line in scan.items("}"):
        file = scan.value()
        if not isinstance(file, str):
            raise scan.wrong("a file's name in quotes belongs here")
        if file in COLUMNS:
            raise scan.wrong(
                f"'{file}' would be a file's name; for an object a row, put them in a list: [...]"
            )
        scan.skip(":")
        asked = scan.value()
        for question in asked if isinstance(asked, list) else [asked]:
            if not isinstance(question, str):
                raise scan.wrong(f"{shortened(file)} needs a question in quotes, or a list of them")
            yield Written(line, {"file": file, "question": question})
        if asked == []:
            raise scan.wrong(f"{shortened(file)} has no question")


def _object(value: object, scan: _Scan) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise scan.wrong(
            f'a row is an object such as {{"file": ..., "question": ...}}, not {shortened(value)}'
        )
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the same key is there twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


class _Scan:
    """JSON a value at a time, so that every row's line is known and no row is built in vain."""

    def __init__(self, text: str, name: str, line: int) -> None:
        self._text, self._name = text, name
        self._at = self._counted = 0
        self._line = line

    def peek(self) -> str:
        """The next character that is no white space; none at the end."""
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def skip(self, character: str) -> None:
        if self.peek() != character:
            raise self.wrong(f"'{character}' is missing")
        self._at += 1

    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def value(self) -> Any:
        self.peek()
        try:
            value, self._at = _DECODER.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = max(self._at, min(error.pos, len(self._text)))
            raise self.wrong(f"no valid JSON ({error.msg})") from None
        except RecursionError:
            raise self.wrong("nested too deeply") from None
        except ValueError as error:
            raise self.wrong(str(error)) from None
        return value

    def items(self, close: str) -> Iterator[int]:
        """The line of each element of the list or object that begins here; the caller reads it."""
        self._at += 1
        if self.peek() == close:
            self._at += 1
            return
        while True:
            self.peek()
            yield self.line()
            if self.peek() == close:
                self._at += 1
                return
            self.skip(",")

    def wrong(self, reason: str) -> InputError:
        return InputError(f"{self._name} line {self.line()}: {reason}")
