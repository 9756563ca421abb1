"""Rows as a Parquet table, streamed; knows neither ledgers nor where the table is put."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, BinaryIO

from tokenreduce.batch.tables import Kind, Told, columns, escape
from tokenreduce.errors import SettingError

GROUP_ROWS = 2000
"""Rows in memory at once, and in a row group of a Parquet file: about 20 MB at 64 frames a row."""

_SURROGATES = re.compile("[\ud800-\udfff]")


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
