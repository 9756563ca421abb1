"""The JSONL says what the ledger says, whole lines only, and nobody's own file is overwritten."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.batch.exporting import Projection, begun, move_aside
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.lock import Lock
from tokenreduce.batch.rows import Row

MakeRow = Callable[..., Row]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture
def ledger(output: Path) -> Iterator[Ledger]:
    with Ledger.create(ledger_of(output)) as made:
        yield made


@pytest.fixture
def projection(output: Path, ledger: Ledger) -> Iterator[Projection]:
    with Projection(output, ledger) as made:
        yield made


def _read(output: Path) -> list[dict[str, Any]]:
    data = output.read_bytes()
    assert data.isascii()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def _refusal(act: Callable[[], object]) -> str:
    with pytest.raises(LedgerError) as caught:
        act()
    line = str(caught.value)
    assert line.isprintable()
    return line


def test_every_row_is_a_line(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    rows = [
        make_row(1),
        make_row(2, "Timeout"),
        make_row(3, file="a\udcff\nb.mp4", question="Où ?"),
    ]
    for row in rows[:2]:
        ledger.record(row)
    projection.rewrite()
    assert _read(output) == [row.to_json() for row in rows[:2]]
    ledger.record(rows[2])
    projection.append(rows[2])
    assert _read(output) == [row.to_json() for row in rows]
    projection.finish()
    assert _read(output) == [row.to_json() for row in rows]
    assert sorted(os.listdir(output.parent)) == [output.name, *_files_of(ledger)]


def _files_of(ledger: Ledger) -> list[str]:
    return [ledger.path.name + ending for ending in ("", "-shm", "-wal")]


def test_an_empty_ledger_is_an_empty_file(output: Path, projection: Projection) -> None:
    projection.rewrite()
    assert output.read_bytes() == b""


def test_the_first_append_brings_the_rows_before_it(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    for number in (1, 2):
        ledger.record(make_row(number))
    projection.append(make_row(2))
    assert [line["file"] for line in _read(output)] == ["clips/1.mp4", "clips/2.mp4"]


def test_other_names_of_a_content(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    one = make_row(1)
    ledger.name(one.content, one.file)
    ledger.record(one)
    projection.rewrite()
    assert _read(output)[0]["also"] == []
    ledger.name(one.content, "copies/z\udcff.mp4")
    ledger.name(one.content, "copies/a.mp4")
    projection.finish()
    assert _read(output)[0]["also"] == ["copies/z\udcff.mp4", "copies/a.mp4"]


def test_a_row_that_was_replaced_is_there_once_in_the_end(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    ledger.record(make_row(1, "Timeout"))
    ledger.record(make_row(2))
    projection.rewrite()
    ledger.record(make_row(1, attempts=2))
    projection.append(make_row(1, attempts=2))
    assert [line["attempts"] for line in _read(output)] == [1, 1, 2]
    projection.finish()
    assert [(line["file"], line["attempts"]) for line in _read(output)] == [
        ("clips/2.mp4", 1),
        ("clips/1.mp4", 2),
    ]


def test_a_placeholder_that_went_goes_from_the_file_too(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    ledger.record(make_row(1, "InputError", id="gone"))
    projection.rewrite()
    ledger.record(make_row(1), forget="gone")
    projection.append(make_row(1))
    projection.finish()
    assert [line["id"] for line in _read(output)] == [make_row(1).id]


def test_the_end_of_an_ordinary_run_writes_nothing_anew(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    projection.rewrite()
    before = output.stat().st_ino
    ledger.name(make_row(1).content, make_row(1).file)
    ledger.record(make_row(1))
    projection.append(make_row(1))
    projection.finish()
    assert output.stat().st_ino == before


def _torn(line: bytes) -> Iterator[bytes]:
    yield line[: len(line) // 2]
    yield line[:-1]
    yield line[:3]
    yield bytes(len(line))
    yield line[:20] + bytes(500)
    yield b'{"a user": "appended this"}\n'
    yield line + line


def test_no_torn_or_foreign_tail_is_kept(output: Path, make_row: MakeRow) -> None:
    with Ledger.create(ledger_of(output)) as ledger:
        ledger.record(make_row(1))
        with Projection(output, ledger) as projection:
            projection.rewrite()
    line = output.read_bytes()
    for before in (b"", line):
        for tail in _torn(line):
            if before == b"" and b"user" in tail:
                continue  # then it is no output of ours at all
            output.write_bytes(before + tail)
            assert begun(output)
            with Ledger.open(ledger_of(output)) as ledger:
                with Projection(output, ledger) as projection:
                    projection.rewrite()
                assert output.read_bytes() == line


def test_whatever_is_left_of_the_file_the_rows_are_back(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    for number in range(3):
        ledger.record(make_row(number))
    projection.rewrite()
    whole = output.read_bytes()

    @settings(max_examples=40)
    @given(cut=st.integers(0, len(whole)), rubbish=st.binary(max_size=20))
    def check(cut: int, rubbish: bytes) -> None:
        output.write_bytes(whole[:cut] + rubbish)
        projection.rewrite()
        assert output.read_bytes() == whole

    check()


@pytest.mark.parametrize("act", [os.unlink, lambda path: path.write_bytes(b'{"id": "other"}\n')])
def test_a_file_that_vanished_or_changed_is_back_in_the_end(
    output: Path,
    ledger: Ledger,
    projection: Projection,
    make_row: MakeRow,
    act: Callable[[Path], object],
) -> None:
    projection.rewrite()
    ledger.record(make_row(1))
    projection.append(make_row(1))
    act(output)
    projection.finish()
    assert _read(output) == [make_row(1).to_json()]


def test_a_mode_is_kept_and_a_link_stays_one(
    output: Path, ledger: Ledger, projection: Projection, make_row: MakeRow
) -> None:
    elsewhere = output.parent / "elsewhere"
    elsewhere.mkdir()
    target = elsewhere / "real.jsonl"
    target.touch()
    target.chmod(0o640)
    output.symlink_to(target)
    ledger.record(make_row(1))
    with Projection(output, ledger) as linked:
        linked.rewrite()
    assert output.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert _read(target) == [make_row(1).to_json()]
    assert os.listdir(elsewhere) == ["real.jsonl"]


def test_a_new_file_has_the_user_s_usual_mode(output: Path, projection: Projection) -> None:
    usual = output.parent / "usual"
    usual.touch()
    projection.rewrite()
    assert output.stat().st_mode == usual.stat().st_mode


_NO_ROOM = """
import os, resource, sys
from pathlib import Path
from tokenreduce.batch.exporting import Projection
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.rows import Row
output = Path(sys.argv[1])
ledger, size = Ledger.open(ledger_of(output)), output.stat().st_size
projection = Projection(output, ledger)
projection.rewrite()
row = next(ledger.rows())
before = output.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
for act in (lambda: projection.append(row), lambda: projection.append(row)):
    try:
        act()
    except LedgerError as error:
        print(error)
assert output.read_bytes() == before
resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, resource.RLIM_INFINITY))
try:
    projection.rewrite()
except LedgerError as error:
    print(error)
assert output.read_bytes() == before
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
projection.append(row)
projection.finish()
assert output.read_bytes() == before
"""


def test_no_room_for_a_line_leaves_whole_lines(output: Path, make_row: MakeRow) -> None:
    with Ledger.create(ledger_of(output)) as ledger, Projection(output, ledger) as projection:
        for number in range(5):
            ledger.record(make_row(number))
        projection.rewrite()
    result = subprocess.run(
        [sys.executable, "-c", _NO_ROOM, str(output)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    said = result.stdout.splitlines()
    assert len(said) == 3
    assert all(
        "no space left to write it; every row recorded so far is safe" in one for one in said
    )
    assert sorted(os.listdir(output.parent)) == [output.name, ledger_of(output).name]


def test_what_is_no_file_cannot_be_an_output(output: Path) -> None:
    assert "name a file" in _refusal(lambda: begun("-"))
    output.mkdir()
    assert "is no regular file" in _refusal(lambda: begun(output))
    assert "is no regular file" in _refusal(lambda: begun("/dev/null"))
    os.mkfifo(output.with_name("pipe"))
    assert "is no regular file" in _refusal(lambda: begun(output.with_name("pipe")))
    (output.with_name("link")).symlink_to("/dev/stdout")
    assert "is no regular file" in _refusal(lambda: begun(output.with_name("link")))


@pytest.mark.parametrize("content", [None, b"", bytes(100)])
def test_nothing_begun(output: Path, content: bytes | None) -> None:
    """An empty file, as `mktemp` makes, and what a power cut leaves, are nobody's loss."""
    if content is not None:
        output.write_bytes(content)
    assert not begun(output)


FOREIGN = [
    b"hello\n",
    b"hello",
    b'{"question": "mine"}\n',
    b'{"question": "mine"}',
    b'{"id": 1, "mine": true}\n',
    b'{"id": 1, "mine": true}',
    b"[1, 2]\n",
    b"\n",
    b"\x89PNG\r\n" + bytes(10_000),
]


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("with_ledger", [True, False])
def test_what_no_batch_wrote_is_never_overwritten(
    output: Path, content: bytes, with_ledger: bool
) -> None:
    if with_ledger:
        Ledger.create(ledger_of(output)).close()
    output.write_bytes(content)
    line = _refusal(lambda: begun(output))
    assert "holds something that no batch wrote" in line
    assert "--new" in line
    assert output.read_bytes() == content


def _some_lines(output: Path, make_row: MakeRow) -> bytes:
    with Ledger.create(ledger_of(output)) as ledger, Projection(output, ledger) as projection:
        for number in range(3):
            ledger.record(make_row(number))
        projection.rewrite()
    return output.read_bytes()


def test_an_output_that_lost_its_ledger(output: Path, make_row: MakeRow) -> None:
    whole = _some_lines(output, make_row)
    assert begun(output)
    ledger_of(output).unlink()
    for content in (whole, whole[:-10]):
        output.write_bytes(content)
        line = _refusal(lambda: begun(output))
        assert "its ledger answers.jsonl.ledger is missing" in line
        assert "put it back beside" in line
        assert "--new" in line
    output.write_bytes(whole + b'{"mine": 1}\n')
    assert "no batch wrote" in _refusal(lambda: begun(output))


def test_a_ledger_whose_output_was_deleted(output: Path, make_row: MakeRow) -> None:
    whole = _some_lines(output, make_row)
    output.unlink()
    assert begun(output)
    with Ledger.open(ledger_of(output)) as ledger, Projection(output, ledger) as projection:
        projection.rewrite()
    assert output.read_bytes() == whole


def test_moving_aside(output: Path, make_row: MakeRow) -> None:
    assert move_aside(output) is None
    whole = _some_lines(output, make_row)
    rows = _rows(output)
    first = move_aside(output)
    assert first == Path(f"{output}.1")
    assert not begun(output)
    assert begun(first)
    assert (first.read_bytes(), _rows(first)) == (whole, rows)
    Path(f"{output}.2.ledger").touch()
    output.write_bytes(b"another")
    assert move_aside(output) == Path(f"{output}.3")
    assert Path(f"{output}.3").read_bytes() == b"another"
    assert Path(f"{output}.2.ledger").read_bytes() == b""
    assert sorted(os.listdir(output.parent)) == [
        "answers.jsonl.1",
        "answers.jsonl.1.ledger",
        "answers.jsonl.2.ledger",
        "answers.jsonl.3",
    ]


def _rows(output: Path) -> list[Row]:
    with Ledger.open(ledger_of(output), readonly=True) as ledger:
        return list(ledger.rows())


_DIE = """
import os, sys
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.rows import Row
ledger = Ledger.open(sys.argv[1])
ledger.record(Row("late", "k", "s", "c", "f", "q", "answered", 1, "", "", "h", "w", {}))
os._exit(9)
"""


@pytest.mark.parametrize(
    "name", ["a b?mode=ro#x.jsonl", "%41%00.jsonl", "-o", "new\nline", "\udcff.jsonl", "'\";*ä星"]
)
def test_outputs_of_any_name(tmp_path: Path, make_row: MakeRow, name: str) -> None:
    output = tmp_path / name
    with Lock.take(output):
        assert not begun(output)
        whole = _some_lines(output, make_row)
        assert begun(output)
        moved = move_aside(output)
    assert moved == tmp_path / f"{name}.1"
    assert moved.read_bytes() == whole
    assert len(_rows(moved)) == 3
    assert sorted(os.listdir(tmp_path)) == sorted([f"{name}.1", f"{name}.1.ledger"])


def test_moving_aside_takes_along_what_a_killed_process_left(
    output: Path, make_row: MakeRow
) -> None:
    _some_lines(output, make_row)
    subprocess.run([sys.executable, "-c", _DIE, str(ledger_of(output))], check=False, timeout=60)
    assert Path(f"{output}.ledger-wal").stat().st_size > 0
    moved = move_aside(output)
    assert moved is not None
    assert [row.id for row in _rows(moved)][-1] == "late"
    assert sorted(os.listdir(output.parent)) == ["answers.jsonl.1", "answers.jsonl.1.ledger"]


def test_moving_a_damaged_ledger_aside_keeps_every_byte(output: Path) -> None:
    contents = {"": b"out", ".ledger": b"damaged", ".ledger-wal": b"log", ".ledger-shm": b"memory"}
    for ending, content in contents.items():
        Path(f"{output}{ending}").write_bytes(content)
    moved = move_aside(output)
    for ending, content in contents.items():
        assert not os.path.lexists(f"{output}{ending}")
        assert Path(f"{moved}{ending}").read_bytes() == content


def test_memory_is_flat_over_many_rows(output: Path, make_row: MakeRow) -> None:
    """Rows of 30 KB: held together they would take 60 MB."""
    with Ledger.create(ledger_of(output)) as ledger, Projection(output, ledger) as projection:
        with ledger.together():
            for number in range(2000):
                ledger.record(make_row(number, answer={"answer": "x" * 30_000}))
        tracemalloc.start()
        projection.rewrite()
        _, most_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert output.stat().st_size > 60_000_000
    assert most_bytes < 2_000_000
