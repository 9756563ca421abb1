"""Rows as flat tables, CSV and Parquet, streamed; knows neither ledgers nor where a table is put.

Columns are named as docs/json.md names the keys, with `_` for dots: tokens_merged, seconds_total.
They are those of this version: a key that a row lacks is an empty cell, a key that is not among
them is left out. The JSONL file keeps every key and every character as it was; see `cell` for what
becomes of text in a CSV file.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any, BinaryIO, Literal, Protocol, get_origin, get_type_hints

from tokenreduce.batch.rows import Row
from tokenreduce.errors import SettingError
from tokenreduce.result import Answer, ImageFacts

Told = tuple[Row, tuple[str, ...]]
"""A row, and other names of its file's content."""

Kind = Literal[
    "text", "whole", "number", "moment", "texts", "wholes", "numbers", "by name", "pictures"
]


class Written(Protocol):
    """What text is written to, as it is."""

    def write(self, text: str, /) -> object: ...


GROUP_ROWS = 2000
"""Rows in memory at once, and in a row group of a Parquet file: about 20 MB at 64 frames a row."""

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
_SURROGATES = re.compile("[\ud800-\udfff]")
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


def check_parquet() -> None:
    """Raises SettingError, in one line, if what writes Parquet is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise SettingError(
            "Parquet is written by pyarrow, which is not installed: "
            "pip install 'tokenreduce[parquet]'"
        ) from None


def write_parquet(file: BinaryIO, rows: Iterable[Told]) -> int:
    """Writes a table with a type for each column, `GROUP_ROWS` rows at a time; says how many.

    All columns, lists as lists; started and finished as UTC times to the millisecond. Only lone
    surrogates, which no UTF-8 can hold, become escapes. file: need not be seekable. Raises
    SettingError without pyarrow.
    """
    check_parquet()
    import pyarrow
    from pyarrow import parquet

    wanted = columns()
    schema = pyarrow.schema([(one.name, _arrow(one.kind)) for one in wanted])
    count = 0
    remaining = iter(rows)
    with (
        pyarrow.PythonFile(_Forward(file), mode="w") as sink,
        parquet.ParquetWriter(sink, schema) as writer,
    ):
        while group := list(itertools.islice(remaining, GROUP_ROWS)):
            told = [row.to_json(also) for row, also in group]
            arrays = [
                pyarrow.array([_typed(one.of(row), one.kind) for row in told], _arrow(one.kind))
                for one in wanted
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            count += len(group)
    return count


def _arrow(kind: Kind) -> Any:
    import pyarrow as pa

    text, whole, number = pa.string(), pa.int64(), pa.float64()
    types: dict[Kind, Any] = {
        "text": text,
        "whole": whole,
        "number": number,
        "moment": pa.timestamp("ms", tz="UTC"),
        "texts": pa.list_(text),
        "wholes": pa.list_(whole),
        "numbers": pa.list_(number),
        "by name": pa.map_(text, text),
        "pictures": pa.list_(pa.struct([("path", text), ("width", whole), ("height", whole)])),
    }
    return types[kind]


def _typed(value: Any, kind: Kind) -> Any:
    """As pyarrow takes it."""
    if value is None:
        return None
    match kind:
        case "moment":
            return _moment(value)
        case "by name":
            return [(_encodable(name), _encodable(inner)) for name, inner in value.items()]
        case _:
            return _encodable(value)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # a clock that was set to no date there is
        return None


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub(escape, value)
    if isinstance(value, Mapping):
        return {name: _encodable(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(inner) for inner in value]
    return value


class _Forward:
    """A file that is only written on: counts for itself where it is, as a pipe cannot say."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written_bytes = 0
        self.closed = False

    def write(self, data: Any, /) -> int:
        self._file.write(data)
        length = memoryview(data).nbytes
        self._written_bytes += length
        return length

    def tell(self) -> int:
        return self._written_bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """The file itself stays open: it is another's."""
        self.closed = True
