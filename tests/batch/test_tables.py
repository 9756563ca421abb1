"""Rows as CSV and Parquet: every column, every row, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch.parquet import GROUP_ROWS, write_parquet
from tokenreduce.batch.rows import Failure, Row, SteppedDown
from tokenreduce.batch.tables import Told, cell, columns, plain, write_csv
from tokenreduce.errors import SettingError
from tokenreduce.result import (
    Answer,
    Flops,
    FramesUsed,
    ImageFacts,
    MemoryBytes,
    Seconds,
    TokenCounts,
    VideoFacts,
)

DOCS = Path(__file__).parents[2] / "docs" / "json.md"
ANSWER = Answer(
    answer="red",
    finish_reason="stop",
    question="What?",
    video=VideoFacts("a.mp4", 42.5, 384, 384, 20.0, "h264"),
    frames=FramesUsed(2, 2, (0.0, 21.25), (0.0, 42.45), 0, 2),
    tokens=TokenCounts(42, 168, 42, 60, (42, 20, 0)),
    flops=Flops(7.4e8, 1.3e9, 3.2e9, 2.46, 1.93, 1e6),
    seconds=Seconds(0.9, 0.2, 0.1, 0.0, 0.1, 0.4, 0.1, 1.5),
    memory_bytes=MemoryBytes(None, 412_000_000, 900_000, 2_100_000),
    model="demo",
    quantize="none",
    preset="aim",
    method="aim-merge + aim-prune",
    seed=4_294_967_295,
    generated_tokens=2,
    warnings=("short", "odd"),
    versions={"tokenreduce": "0.1.0", "torch": "2.13.0"},
    images=(ImageFacts("a.png", 3, 4),),
).to_json()
ROW = Row(
    id="0123456789abcdef",
    key="0123456789abcdef" * 4,
    settings="5" * 64,
    content="c" * 64,
    file="a.mp4",
    question="What?",
    status="answered",
    attempts=1,
    started="2026-11-01T10:00:00.125Z",
    finished="2026-11-01T10:00:02.000Z",
    host="here",
    worker="w0",
    answer=ANSWER,
)
FAILED = replace(
    ROW,
    id="second",
    status="failed",
    answer=None,
    attempts=3,
    failure=Failure("Timeout", "a.mp4: took more than 60 s"),
    stepped_down=SteppedDown(32, 21),
)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def as_csv(*rows: Row, also: tuple[str, ...] = (), **options: Any) -> str:
    file = io.StringIO(newline="")
    assert write_csv(file, [(row, also) for row in rows], **options) == len(rows)
    return file.getvalue()


def read_parquet(data: bytes) -> Any:
    from pyarrow import BufferReader, parquet

    return parquet.ParquetFile(BufferReader(data))


def as_parquet(*rows: Row, also: tuple[str, ...] = ()) -> bytes:
    file = io.BytesIO()
    assert write_parquet(file, ((row, also) for row in rows)) == len(rows)
    return file.getvalue()


def test_there_is_a_column_for_every_documented_key() -> None:
    of_rows = DOCS.read_text().partition("## What `plan` foresees")[0]
    documented = re.findall(
        r"^\| `([a-z_.]+)` \| (?!object (?:or null )?\|)[a-z ]+ \|", of_rows, re.MULTILINE
    )
    names = [column.name for column in columns()]
    assert len(set(names)) == len(names)
    assert len(documented) > 50
    assert {key.replace(".", "_") for key in documented} <= set(names)


def test_every_key_of_a_row_is_in_a_column() -> None:
    """But those inside lists and of the versions, whose names are not ours."""

    def paths(value: Any, before: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if not isinstance(value, dict) or before == ("versions",):
            return {before}
        return {path for key, one in value.items() for path in paths(one, (*before, key))}

    wanted = paths(ROW.to_json()) | paths(FAILED.to_json())
    wanted -= {("error",), ("stepped_down",)}  # null
    assert wanted == {column.path for column in columns()}


def test_csv_has_a_line_for_each_row_and_figures_as_they_are() -> None:
    first, second = read_csv(as_csv(ROW, FAILED, also=("b.mp4", "c.mp4")))
    assert first["id"] == ROW.id
    assert first["tokens_merged"] == "42"
    assert float(first["flops_llm"]) == 1.3e9
    assert first["seconds_total"] == "1.5"
    assert first["seed"] == "4294967295"
    assert first["memory_bytes_device_peak"] == first["error_type"] == ""
    assert first["also"] == "b.mp4; c.mp4"
    assert first["warnings"] == "short; odd"
    assert first["versions"] == "tokenreduce 0.1.0; torch 2.13.0"
    assert second["answer"] == second["tokens_merged"] == ""
    assert (second["status"], second["error_type"]) == ("failed", "Timeout")
    assert second["error_reason"] == "a.mp4: took more than 60 s"
    assert (second["stepped_down_frames"], second["attempts"]) == ("32", "3")
    assert second["question"] == "What?"
    assert not {"tokens_per_layer", "frames_seconds", "frames_until", "images"} & set(first)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_any_cell_comes_back_from_csv(texts: list[str]) -> None:
    rows = [replace(ROW, answer={**ANSWER, "answer": text}, question=text) for text in texts]
    data = as_csv(*rows).encode("utf-8")  # strict: no surrogate may be left
    found = read_csv(data.decode("utf-8"))
    assert [(one["id"], one["answer"]) for one in found] == [(ROW.id, cell(one)) for one in texts]


@given(st.text(alphabet=" \n\t\r=+-@'\uff1d\uff0b\uff0d\uff20a\u00a0\x00\udcff", max_size=8))
def test_no_cell_begins_like_a_formula(text: str) -> None:
    made = cell(text)
    assert not made.lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))
    assert not made.startswith(("\t", "\r"))
    assert (made[1:] if made.startswith("'") else made) == plain(text)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\n@x", "'a"])
def test_a_formula_gets_a_quote(text: str) -> None:
    assert cell(text) == f"'{text}"
    assert cell([text, "b"]) == f"'{text}; b"
    assert cell({text: "1"}) == f"'{text} 1"


@pytest.mark.parametrize("value", ["red", "a=b", "1-2", "", 0, -1.5, -3, 1e-9])
def test_other_cells_stay_as_they_are(value: object) -> None:
    assert cell(value) == str(value)


def test_a_name_that_is_no_utf_8_and_controls_are_escapes() -> None:
    row = replace(ROW, file="caf\udce9\x1b[2J\r\x00.mp4")
    assert read_csv(as_csv(row))[0]["file"] == "caf\\xe9\\x1b[2J\\r\\x00.mp4"
    (told,) = read_parquet(as_parquet(row)).read(["file"]).to_pylist()
    assert told["file"] == "caf\\xe9\x1b[2J\r\x00.mp4"


def test_a_byte_order_mark_only_if_wanted() -> None:
    assert as_csv(ROW).startswith("id,status,file,")
    assert as_csv(ROW, bom=True).startswith("\ufeffid,status,file,")


def test_a_row_of_another_version_leaves_cells_empty() -> None:
    row = replace(ROW, answer={"answer": "red", "question": "What?", "new": 1, "tokens": 7})
    (told,) = read_csv(as_csv(row))
    assert (told["answer"], told["tokens_merged"], told["model"]) == ("red", "", "")
    (typed,) = read_parquet(as_parquet(row)).read().to_pylist()
    assert (typed["answer"], typed["tokens_merged"], typed["images"]) == ("red", None, None)


def test_parquet_types_and_values() -> None:
    table = read_parquet(as_parquet(ROW, FAILED, also=("b.mp4",))).read()
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["tokens_merged"] == "int64"
    assert kinds["seconds_total"] == "double"
    assert kinds["started"] == "timestamp[ms, tz=UTC]"
    assert kinds["also"].startswith("list<")
    first, second = table.to_pylist()
    assert first["started"] == datetime(2026, 11, 1, 10, 0, 0, 125_000, UTC)
    assert first["tokens_per_layer"] == [42, 20, 0]
    assert first["frames_seconds"] == [0.0, 21.25]
    assert first["also"] == ["b.mp4"]
    assert dict(first["versions"]) == ANSWER["versions"]
    assert first["images"] == ANSWER["images"]
    assert first["seed"] == 4_294_967_295
    assert first["memory_bytes_device_peak"] is None
    assert (second["status"], second["answer"], second["images"]) == ("failed", None, None)
    assert second["stepped_down_budget"] == 21


def test_a_clock_set_to_no_date_is_no_failure() -> None:
    row = replace(ROW, started="+51234-01-01T00:00:00.000Z")
    (typed,) = read_parquet(as_parquet(row)).read().to_pylist()
    assert typed["started"] is None


def test_no_row_makes_a_table_with_names() -> None:
    assert as_csv().splitlines()[1:] == []
    empty = read_parquet(as_parquet()).read()
    assert empty.num_rows == 0
    assert empty.column_names == [column.name for column in columns()]


def test_parquet_takes_rows_a_group_at_a_time() -> None:
    taken = 0
    when_written = set()

    class Watched(io.BytesIO):
        def write(self, data: Any, /) -> int:
            when_written.add(taken)
            return super().write(data)

    def rows() -> Iterator[Told]:
        nonlocal taken
        for number in range(GROUP_ROWS + 1):
            taken += 1
            yield replace(FAILED, id=str(number)), ()

    watched = Watched()
    write_parquet(watched, rows())
    assert GROUP_ROWS in when_written  # before the next one is taken
    found = read_parquet(watched.getvalue())
    assert found.num_row_groups == 2
    assert found.read(["id"]).column("id").to_pylist() == [str(i) for i in range(GROUP_ROWS + 1)]


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SettingError, match=re.escape("pip install 'tokenreduce[parquet]'")):
        as_parquet(ROW)


def test_what_is_told_is_json() -> None:
    """The rows here are such as a ledger gives: nothing but JSON's own types."""
    assert json.loads(json.dumps(ROW.to_json())) == ROW.to_json()
