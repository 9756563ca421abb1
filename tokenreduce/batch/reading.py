"""A questions file's rows as they are written: csv, jsonl, json or plain lines.

Knows where each row stands and what its columns are called, not what they mean.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator
from itertools import zip_longest
from typing import BinaryIO, Literal

from tokenreduce.batch.json_rows import of_document, of_line
from tokenreduce.batch.written import COLUMNS, Written
from tokenreduce.errors import InputError
from tokenreduce.video.inputs import shown

MOST_BYTES = 64 << 20
"""Of a questions file, or of a list of names: a million rows of 60 bytes."""

STDIN = "-"

Form = Literal["csv", "jsonl", "json", "txt"]

_FORMS: dict[str, Form] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
}
_NO_DELIMITER = "\x1f"  # where the heading is one column, a comma is part of the question


def piped(stdin: BinaryIO | None) -> BinaryIO:
    """Standard input. Raises InputError if it is closed."""
    if stdin is not None:
        return stdin
    if sys.stdin is None:
        raise InputError("standard input is closed: give a file instead of -")
    return sys.stdin.buffer


def content(path: str, stdin: BinaryIO | None = None) -> bytes:
    """All bytes of a file, a pipe, or standard input for -, at most MOST_BYTES. Raises InputError.

    stdin: instead of the process's own.
    """
    name = title(path)
    try:
        if path == STDIN:
            data = piped(stdin).read(MOST_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the name") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be read ({reason}); choose another file") from None
    if len(data) > MOST_BYTES:
        raise InputError(
            f"{name}: is larger than {MOST_BYTES >> 20} MiB, the most that is read: cut it in two"
        )
    return data


def title(path: str) -> str:
    """The file as messages call it."""
    return "standard input" if path == STDIN else shown(path)


def rows(path: str, stdin: BinaryIO | None = None) -> Iterator[Written]:
    """The rows of a questions file, read as they are wanted.

    The form goes by the extension; standard input and names without one go by the first character.
    Raises InputError, here or on the way, for what cannot be read, is not UTF-8, not of the form,
    or larger than MOST_BYTES.
    """
    name, ending = title(path), os.path.splitext(path)[1].lower()
    if path != STDIN and ending and ending not in _FORMS:
        raise InputError(
            f"{name}: a questions file ends in .csv, .jsonl, .json or .txt (one question a line): "
            "rename or convert it"
        )
    data = _text(content(path, stdin), name)
    form = _FORMS.get(ending) if path != STDIN else None
    if form is None:
        first = data.lstrip()[:1]
        form = "jsonl" if first == b"{" else "json" if first == b"[" else "csv"
    readers = {"csv": _csv, "jsonl": _jsonl, "json": _json, "txt": _txt}
    return readers[form](data, name)


def _text(data: bytes, name: str) -> bytes:
    """UTF-8 without its mark. Raises InputError for anything else."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}: is UTF-16 text; save it as UTF-8 (in Excel: CSV UTF-8)")
    if b"\0" in data:
        raise InputError(f"{name}: is no text, it holds zero bytes; give csv, jsonl, json or txt")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} line {line}: is not valid UTF-8 text; save the file as UTF-8"
        ) from None
    return data


def _lines(data: bytes, newline: str | None = None) -> io.TextIOWrapper:
    """Line by line: as one text, it would take four bytes for each character."""
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=newline)


def _txt(data: bytes, name: str) -> Iterator[Written]:
    for number, line in enumerate(_lines(data), 1):
        if line.strip():
            yield Written(number, {"question": line.strip()})


def _jsonl(data: bytes, name: str) -> Iterator[Written]:
    for number, line in enumerate(_lines(data), 1):
        if line.strip():
            yield of_line(line, name, number)


def _json(data: bytes, name: str) -> Iterator[Written]:
    return of_document(data.decode("utf-8"), name)


def _csv(data: bytes, name: str) -> Iterator[Written]:
    """Comma, semicolon or tab, whichever the heading has; quotes as RFC 4180."""
    table = csv.reader(_lines(data, ""), delimiter=_delimiter(data), strict=True)
    heading: list[str] | None = None
    line = 1
    while True:
        try:
            cells = next(table, None)
        except csv.Error as error:
            raise InputError(
                f"{name} line {line}: is no valid csv ({error}); put quotes around the whole "
                'question and double those in it, as in "a ""stop"" sign?"'
            ) from None
        if cells is None:
            return
        begin, line = line, table.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if heading is None:
            heading = _heading(cells, f"{name} line {begin}")
        elif len(cells) > len(heading):
            raise InputError(
                f"{name} line {begin}: has {len(cells)} columns, and the heading {len(heading)}; "
                "put quotes around a question that holds the separator"
            )
        else:
            yield Written(begin, dict(zip_longest(heading, (one or None for one in cells))))


def _delimiter(data: bytes) -> str:
    """By the heading alone: what separates there cannot be part of a question."""
    first = data.lstrip().split(b"\n", 1)[0].split(b"\r", 1)[0]
    most = max(b",;\t", key=first.count)
    return chr(most) if most in first else _NO_DELIMITER


def _heading(cells: list[str], where: str) -> list[str]:
    heading = [cell.strip().casefold() for cell in cells]
    for column in COLUMNS:
        if heading.count(column) > 1:
            raise InputError(f"{where}: the column '{column}' is there twice: rename one")
    return heading
