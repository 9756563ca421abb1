"""Rows as flat tables, and as CSV, streamed; knows neither ledgers nor where a table is put.

Columns are named as docs/json.md names the keys, with `_` for dots: tokens_merged, seconds_total.
They are those of this version: a key that a row lacks is an empty cell, a key that is not among
them is left out. The JSONL file keeps every key and every character as it was; see `cell` for what
becomes of text in a CSV file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Protocol, get_origin, get_type_hints

from tokenreduce.batch.rows import Row
from tokenreduce.result import Answer, ImageFacts

Told = tuple[Row, tuple[str, ...]]
"""A row, and other names of its file's content."""

Kind = Literal[
    "text", "whole", "number", "moment", "texts", "wholes", "numbers", "by name", "pictures"
]


class Written(Protocol):
    """What text is written to, as it is."""

    def write(self, text: str, /) -> object: ...


_KINDS: dict[Any, Kind] = {
    str: "text",
    int: "whole",
    float: "number",
    int | None: "whole",
    tuple[int, ...]: "wholes",
    tuple[float, ...]: "numbers",
    tuple[str, ...]: "texts",
    dict[str, str]: "by name",
    tuple[ImageFacts, ...]: "pictures",
}
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_IN_CSV: frozenset[Kind] = frozenset({"wholes", "numbers", "pictures"})


@dataclass(frozen=True)
class Column:
    """name: of the table's column; path: the keys that lead to its value in a row's object."""

    name: str
    path: tuple[str, ...]
    kind: Kind

    def of(self, told: Mapping[str, Any]) -> Any:
        """Its value in a row's object, None where there is none."""
        value: Any = told
        for key in self.path:
            if not isinstance(value, Mapping):
                return None
            value = value.get(key)
        return value


def columns() -> tuple[Column, ...]:
    """All there are: of the row, then of its answer."""
    of_row = [Column(name.replace(".", "_"), tuple(name.split(".")), kind) for name, kind in _ROW]
    names = {column.name for column in of_row}
    return (*of_row, *(one for one in _columns(Answer) if one.name not in names))


_ROW: tuple[tuple[str, Kind], ...] = (
    ("id", "text"),
    ("status", "text"),
    ("file", "text"),
    ("also", "texts"),
    ("question", "text"),
    ("answer", "text"),
    ("error.type", "text"),
    ("error.reason", "text"),
    ("attempts", "whole"),
    ("stepped_down.frames", "whole"),
    ("stepped_down.budget", "whole"),
    ("started", "moment"),
    ("finished", "moment"),
    ("host", "text"),
    ("worker", "text"),
    ("settings", "text"),
    ("key", "text"),
)


def _columns(kind: type, before: tuple[str, ...] = ()) -> Iterator[Column]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint, path = hints[field.name], (*before, field.name)
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _columns(hint, path)
        else:
            told: Kind = "text" if get_origin(hint) is Literal else _KINDS[hint]
            yield Column("_".join(path), path, told)


def write_csv(file: Written, rows: Iterable[Told], *, bom: bool = False) -> int:
    """Writes a line of names and one for each row; says how many rows.

    Quoted as RFC 4180 says, lines end in LF. Lists of numbers and of pictures are left out; lists
    of text are joined with "; ". bom: begins with a byte order mark.
    """
    wanted = [column for column in columns() if column.kind not in _NOT_IN_CSV]
    if bom:
        file.write("\ufeff")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(column.name for column in wanted)
    count = 0
    for row, also in rows:
        told = row.to_json(also)
        writer.writerow([cell(column.of(told)) for column in wanted])
        count += 1
    return count


def cell(value: object) -> str:
    r"""A value as a CSV file has it.

    Spreadsheets run a cell that begins with = + - @ as a formula, quoted or not. So text that
    begins so, after white space or not, or with a tab, gets a ' before it; so does text that begins
    with ', so that whoever takes one ' off has the text again. Numbers stay as they are.

    >>> cell('=HYPERLINK("http://x")'), cell("red"), cell(-1.5), cell(None)
    ('\'=HYPERLINK("http://x")', 'red', '-1.5', '')
    """
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        text = "; ".join(f"{name} {inner}" for name, inner in value.items())
    elif isinstance(value, (list, tuple)):
        text = "; ".join(map(str, value))
    else:
        text = str(value)
    text = plain(text)
    guarded = text.startswith(("'", "\t")) or text.lstrip().startswith(_FORMULA)
    return f"'{text}" if guarded else text


def plain(text: str) -> str:
    r"""Text with control characters, newlines and tabs aside, and lone surrogates as escapes.

    >>> print(plain("a\x1b[31m\udcffb"))
    a\x1b[31m\xffb
    """
    return _CONTROLS.sub(escape, text)


def escape(found: re.Match[str]) -> str:
    """One character as a backslash escape; a byte of a file name that was no UTF-8 as that byte."""
    character = found[0]
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
