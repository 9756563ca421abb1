"""What a questions file asks: its rows checked, every mistake with its line.

Knows neither which files there are nor what becomes of the rows.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from tokenreduce.batch.reading import STDIN, rows, title
from tokenreduce.batch.written import COLUMNS, Written
from tokenreduce.errors import InputError
from tokenreduce.question import check_question
from tokenreduce.strict import shortened

MOST_ROWS = 1_000_000
MAX_ID_CHARACTERS = 200

_FORBIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A row. file, question: None where there is no such column; line: for messages."""

    line: int
    file: str | None
    question: str | None
    id: str | None


@dataclass(frozen=True)
class Questions:
    """A questions file that was read; at least one row, and a file or a question in each.

    name     as messages call it
    folder   its own; "" for standard input
    files    whether its rows name files
    asks     whether its rows have questions
    ignored  its columns that mean nothing here
    """

    name: str
    folder: str
    entries: tuple[Entry, ...]
    files: bool
    asks: bool
    ignored: tuple[str, ...]

    @property
    def with_id(self) -> Entry | None:
        """The first row that has an id."""
        return next((one for one in self.entries if one.id is not None), None)


def read_questions(path: str, stdin: BinaryIO | None = None) -> Questions:
    """The questions file at `path`; - is standard input.

    Raises InputError, with file and line, for what `reading.rows` cannot read, for no row or more
    than MOST_ROWS, a missing column, an empty cell, a question that cannot be asked, and an id
    that is there twice or is no short line of text.
    """
    name = title(path)
    entries: list[Entry] = []
    columns: dict[str, None] = {}
    kept: dict[str, str] = {}  # the same text once, however many rows have it
    for row in rows(path, stdin):
        where = f"{name} line {row.line}"
        if len(entries) == MOST_ROWS:
            raise InputError(
                f"{where}: is row {MOST_ROWS + 1:,}, and {MOST_ROWS:,} is the most that is read: "
                "cut the file in two"
            )
        columns |= dict.fromkeys(row.cells)
        entries.append(_entry(row, where, kept))
    files, asks = "file" in columns, "question" in columns
    _complete(entries, tuple(columns), name)
    _unique(entries, name)
    folder = "" if path == STDIN else os.path.dirname(path)
    ignored = tuple(column for column in columns if column not in COLUMNS)
    return Questions(name, folder, tuple(entries), files, asks, ignored)


def askable(text: str, where: str) -> str:
    """The question without white space around it. where: begins the message.

    Raises InputError if it is empty, too long or no text.
    """
    if not text.strip():
        raise InputError(f"{where}: the question is empty; write one")
    if "\0" in text or any("\ud800" <= one <= "\udfff" for one in text):
        raise InputError(f"{where}: the question holds bytes that are no text; write it in UTF-8")
    try:
        return check_question(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _entry(row: Written, where: str, kept: dict[str, str]) -> Entry:
    """Empty cells are None, here and below."""
    file, question = _file(row.cells.get("file"), where), row.cells.get("question")
    if question is not None and not isinstance(question, str):
        raise InputError(f"{where}: the question is {shortened(question)}; it must be text")
    if question is not None:
        question = askable(question, where) if question.strip() else None
    if question is not None:
        question = kept.setdefault(question, question)
    if file is not None:
        file = kept.setdefault(file, file)
    return Entry(row.line, file, question, _id(row.cells.get("id"), where))


def _file(given: object, where: str) -> str | None:
    """As it stands there: a name may begin or end with a space."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    if not isinstance(given, str):
        raise InputError(f"{where}: the file is {shortened(given)}; it must be text")
    try:
        possible = b"\0" not in os.fsencode(given)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise InputError(f"{where}: {shortened(given)} can be no file's name; write another")
    return given


def _complete(entries: Sequence[Entry], columns: Sequence[str], name: str) -> None:
    """Each row has what its file has a column for, and there is at least one of the two."""
    if not entries:
        raise InputError(f"{name}: has no row; give one for each question")
    if "file" not in columns and "question" not in columns:
        there = ", ".join(shortened(one) for one in columns[:5]) or "none"
        raise InputError(
            f"{name}: has no column 'question' and none 'file'; the columns it has are {there}"
        )
    for entry in entries:
        if "question" in columns and entry.question is None:
            raise InputError(f"{name} line {entry.line}: the question is empty; write one")
        if "file" in columns and entry.file is None:
            raise InputError(
                f"{name} line {entry.line}: names no file; write one in the column 'file'"
            )


def _id(given: object, where: str) -> str | None:
    """Numbers are taken as they are written. None if there is none."""
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if given is not None and not isinstance(given, str):
        raise InputError(f"{where}: the id is {shortened(given)}; it must be text")
    id = (given or "").strip()
    if len(id) > MAX_ID_CHARACTERS:
        raise InputError(
            f"{where}: the id has {len(id):,} characters: at most {MAX_ID_CHARACTERS} are allowed"
        )
    # Marks that join letters are not printable either, and belong in a word.
    if not id.isprintable() and any(unicodedata.category(one) in _FORBIDDEN for one in id):
        raise InputError(
            f"{where}: the id {shortened(id)} holds a line break or a control character; give "
            "one short line"
        )
    return id or None


def _unique(entries: Iterable[Entry], name: str) -> None:
    lines: dict[str, int] = {}
    for entry in entries:
        if entry.id is not None and entry.id in lines:
            raise InputError(
                f"{name}: duplicate id {shortened(entry.id)} in lines {lines[entry.id]} and "
                f"{entry.line}; give each row its own"
            )
        if entry.id is not None:
            lines[entry.id] = entry.line
