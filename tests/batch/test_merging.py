"""Shards become one output: the better row of two, nothing lost, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from tokenreduce.batch.exporting import Projection, begun
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.lock import Lock
from tokenreduce.batch.merging import Merged, merge
from tokenreduce.batch.rows import Row, content_of_name
from tokenreduce.cache.digest import FileState
from tokenreduce.errors import TokenReduceError

MakeRow = Callable[..., Row]
Part = Callable[..., Path]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Writes an output of these rows under this name."""

    def write(name: str, rows: Sequence[Row]) -> Path:
        output = tmp_path / name
        with Ledger.create(ledger_of(output)) as ledger, Projection(output, ledger) as projection:
            for row in rows:
                ledger.name(row.content, row.file)
                ledger.record(row)
            projection.rewrite()
        return output

    return write


def _rows(output: Path) -> list[Row]:
    with Ledger.open(ledger_of(output), readonly=True) as ledger:
        return list(ledger.rows())


def _folder(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}


def _refusal(act: Callable[[], object]) -> str:
    with pytest.raises(TokenReduceError) as caught:
        act()
    line = str(caught.value)
    assert line.isprintable()
    return line


def test_shards_become_one_in_their_order(part: Part, make_row: MakeRow, tmp_path: Path) -> None:
    parts = [
        part("part2.jsonl", [make_row(5), make_row(1, "Timeout")]),
        part("part1.jsonl", [make_row(3)]),
        part("part3.jsonl", []),
    ]
    before = _folder(tmp_path)
    merged = merge(parts, tmp_path / "all.jsonl")
    assert merged == Merged(outputs=3, rows=3, answered=2, failed=1, replaced=0)
    assert _rows(tmp_path / "all.jsonl") == [make_row(5), make_row(1, "Timeout"), make_row(3)]
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [
        "clips/5.mp4",
        "clips/1.mp4",
        "clips/3.mp4",
    ]
    after = _folder(tmp_path)
    assert after.keys() - before.keys() == {"all.jsonl", "all.jsonl.ledger"}
    assert {name: after[name] for name in before} == before
    assert begun(tmp_path / "all.jsonl")


def _variants(make_row: MakeRow) -> list[Row]:
    """Of one row, from the one that gives way to all to the one that stays."""
    late = "2026-02-01T00:00:00.000Z"
    return [
        make_row(1, "Timeout"),
        make_row(1, "Timeout", finished=late),
        make_row(1, "Timeout", attempts=3),
        make_row(1),
        make_row(1, finished=late),
        make_row(1, attempts=2),
    ]


def test_the_better_of_equal_ids_stays(part: Part, make_row: MakeRow, tmp_path: Path) -> None:
    """Every pair of them under an id of its own, and either one first."""
    pairs = list(product(range(6), repeat=2))
    variants = _variants(make_row)
    parts = [
        part(f"part{side}", [replace(variants[pair[side]], id=f"{pair}") for pair in pairs])
        for side in (0, 1)
    ]
    merged = merge(parts, tmp_path / "all.jsonl")
    assert merged.rows == merged.replaced == len(pairs)
    rows = {row.id: row for row in _rows(tmp_path / "all.jsonl")}
    assert rows == {f"{pair}": replace(variants[max(pair)], id=f"{pair}") for pair in pairs}


def test_rows_of_other_settings_stand_beside(part: Part, make_row: MakeRow, tmp_path: Path) -> None:
    parts = [part("a", [make_row(1)]), part("b", [make_row(1, settings="other")])]
    assert merge(parts, tmp_path / "all").rows == 2


def test_all_that_is_known_of_contents_comes_along(
    part: Part, make_row: MakeRow, tmp_path: Path
) -> None:
    parts = [part("a", [make_row(1)]), part("b", [make_row(2)])]
    one = make_row(1)
    states = [FileState(number, 1, 1, 1, 1) for number in range(3)]
    for number, output in enumerate(parts):
        with Ledger.open(ledger_of(output)) as ledger:
            ledger.add_settings("s" * 64, {"preset": "fast"}, {"part": str(number)})
            ledger.add_settings(f"{number}" * 64, {"number": str(number)}, {})
            ledger.name(one.content, f"copy {number}.mp4")
            ledger.keep_thumbnail(f"content {number}", b"jpeg %d" % number)
            ledger.keep_thumbnail("both", b"jpeg %d" % number)
            ledger.remember(states[number], f"{number}" * 64)
            ledger.remember(states[2], f"{number}" * 64)
    merge(parts, tmp_path / "all")
    with Ledger.open(ledger_of(tmp_path / "all")) as ledger:
        assert list(ledger.settings()) == ["s" * 64, "0" * 64, "1" * 64]
        assert ledger.settings()["s" * 64].given == {"part": "0"}
        assert ledger.names(one.content) == (one.file, "copy 0.mp4", "copy 1.mp4")
        assert [ledger.thumbnail(f"content {number}") for number in (0, 1)] == [
            b"jpeg 0",
            b"jpeg 1",
        ]
        assert ledger.thumbnail("both") == b"jpeg 0"
        assert [ledger.recall(state) for state in states] == ["0" * 64, "1" * 64, "0" * 64]
    first = json.loads((tmp_path / "all").read_text().splitlines()[0])
    assert first["also"] == ["copy 0.mp4", "copy 1.mp4"]


def test_one_output_named_twice_is_read_once(part: Part, make_row: MakeRow, tmp_path: Path) -> None:
    one = part("a", [make_row(1)])
    (tmp_path / "sub").mkdir()
    again = tmp_path / "sub" / ".." / "a"
    assert merge([one, again], tmp_path / "all") == Merged(1, 1, 1, 0, 0)


def test_an_id_that_means_two_things_loses_no_answer(
    part: Part, make_row: MakeRow, tmp_path: Path
) -> None:
    a = part("a", [make_row(1, id="7")])
    for name, other in (
        ("another file", make_row(2, id="7", question=make_row(1).question)),
        ("another question", make_row(1, id="7", question="Another?")),
    ):
        before = _folder(tmp_path)
        b = part(name, [make_row(3), other])
        line = _refusal(lambda: merge([a, b], tmp_path / "all"))  # noqa: B023
        assert "the id 7 is there for clips/" in line
        assert "give each its own id" in line
        assert _folder(tmp_path).keys() - before.keys() == {name, f"{name}.ledger"}


@pytest.mark.parametrize(
    "changed",
    [
        {"content": "f" * 64},  # the file was exported again
        {"file": "elsewhere/1.mp4"},  # or renamed
        {"content": content_of_name("/mnt/1.mp4"), "file": "/mnt/1.mp4"},  # or could not be read
    ],
)
def test_an_id_that_means_one_thing_under_two_names_is_one_row(
    part: Part, make_row: MakeRow, tmp_path: Path, changed: dict[str, str]
) -> None:
    good = make_row(1, id="7")
    parts = [part("a", [make_row(1, "InputError", id="7", **changed)]), part("b", [good])]
    assert merge(parts, tmp_path / "all") == Merged(2, 1, 1, 0, 1)
    assert _rows(tmp_path / "all") == [good]


def test_nothing_to_merge(part: Part, make_row: MakeRow, tmp_path: Path) -> None:
    assert "nothing to merge" in _refusal(lambda: merge([], tmp_path / "all"))
    one = part("a", [make_row(1)])
    line = _refusal(lambda: merge([one, tmp_path / "none.jsonl"], tmp_path / "all"))
    assert "none.jsonl: has no ledger none.jsonl.ledger beside it" in line
    ledger_of(tmp_path / "b").write_bytes(b"rubbish")
    assert "no ledger of tokenreduce" in _refusal(
        lambda: merge([one, tmp_path / "b"], tmp_path / "all")
    )
    assert sorted(os.listdir(tmp_path)) == ["a", "a.ledger", "b.ledger"]


def test_what_is_there_is_not_merged_into(part: Part, make_row: MakeRow, tmp_path: Path) -> None:
    a, b = part("a", [make_row(1)]), part("b", [make_row(2)])
    (tmp_path / "mine").write_text("mine")
    before = _folder(tmp_path)
    assert "is there already" in _refusal(lambda: merge([a, b], a))
    assert "no batch wrote" in _refusal(lambda: merge([a, b], tmp_path / "mine"))
    assert "name a file" in _refusal(lambda: merge([a, b], "-"))
    assert "does not exist" in _refusal(lambda: merge([a, b], tmp_path / "none" / "all"))
    assert _folder(tmp_path) == before
    (tmp_path / "empty").touch()
    assert merge([a, b], tmp_path / "empty").rows == 2


def test_an_output_that_is_being_worked_on_is_not_merged(
    part: Part, make_row: MakeRow, tmp_path: Path
) -> None:
    a, b = part("a", [make_row(1)]), part("b", [make_row(2)])
    with Lock.take(b):
        line = _refusal(lambda: merge([a, b], tmp_path / "all"))
        assert f"process {os.getpid()}" in line
        assert "works on it" in line
    with Lock.take(tmp_path / "all"):
        assert "works on it" in _refusal(lambda: merge([a, b], tmp_path / "all"))
    assert merge([a, b], tmp_path / "all").rows == 2


_DIE = """
import os, sys
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.rows import Row
ledger = Ledger.create(sys.argv[1])
ledger.record(Row("late", "k", "s", "c", "f", "q", "answered", 1, "", "", "h", "w", {}))
os._exit(9)
"""


def test_a_part_whose_batch_was_killed_is_read_and_not_changed(
    part: Part, make_row: MakeRow, tmp_path: Path
) -> None:
    killed = tmp_path / "b"
    subprocess.run([sys.executable, "-c", _DIE, str(ledger_of(killed))], check=False, timeout=60)
    before = _folder(tmp_path)
    assert before["b.ledger-wal"]
    merge([part("a", [make_row(1)]), killed], tmp_path / "all")
    assert [row.id for row in _rows(tmp_path / "all")] == [make_row(1).id, "late"]
    after = _folder(tmp_path)
    assert [after[name] for name in ("b.ledger", "b.ledger-wal")] == [
        before[name] for name in ("b.ledger", "b.ledger-wal")
    ]


@pytest.mark.parametrize(
    "where",
    ["tokenreduce.batch.merging.lines", "tokenreduce.batch.durable.name_new", "os.replace"],
)
def test_a_merge_that_fails_leaves_nothing(
    part: Part,
    make_row: MakeRow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    parts = [part("a", [make_row(1)]), part("b", [make_row(2)])]
    before = _folder(tmp_path)

    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        assert "no space left" in _refusal(lambda: merge(parts, tmp_path / "all"))
    assert _folder(tmp_path) == before
    assert merge(parts, tmp_path / "all").rows == 2


def test_what_a_killed_merge_left_is_in_nobody_s_way(
    part: Part, make_row: MakeRow, tmp_path: Path
) -> None:
    one = part("a", [make_row(1)])
    for ending in ("", "-wal", "-shm"):
        (tmp_path / f"all.ledger.merging{ending}").write_bytes(b"rubbish")
    (tmp_path / ".all.unfinished").write_bytes(b"rubbish")
    merge([one], tmp_path / "all")
    assert sorted(os.listdir(tmp_path)) == ["a", "a.ledger", "all", "all.ledger"]
