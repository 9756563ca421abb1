"""Files that exports put in their place: whole, and never over what must stay."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tokenreduce.batch.placing import check, placed
from tokenreduce.errors import InputError


def put(path: Path, data: bytes, *, force: bool = False) -> None:
    with placed(str(path), force=force) as file:
        file.write(data)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_there_once_the_block_has_ended(tmp_path: Path) -> None:
    with placed(str(tmp_path / "a.csv"), force=False) as file:
        file.write(b"one")
        assert not (tmp_path / "a.csv").exists()
    assert (tmp_path / "a.csv").read_bytes() == b"one"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("force", [False, True])
def test_what_fails_leaves_everything_as_it_was(tmp_path: Path, force: bool) -> None:
    target = tmp_path / "a.csv"
    if force:
        target.write_bytes(b"before")

    def fail() -> None:
        with placed(str(target), force=force) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == (["a.csv"] if force else [])
    assert not force or target.read_bytes() == b"before"


def test_a_file_that_is_there_stays_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_bytes(b"before")
    with pytest.raises(InputError, match=r"a\.csv: is there already; --force replaces it"):
        put(target, b"after")
    assert target.read_bytes() == b"before"
    target.chmod(0o640)
    put(target, b"after", force=True)
    assert target.read_bytes() == b"after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert names(tmp_path) == ["a.csv"]


def test_a_file_that_comes_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"

    def late() -> None:
        with placed(str(target), force=False) as file:
            file.write(b"late")
            target.write_bytes(b"sooner")

    with pytest.raises(InputError, match="is there already"):
        late()
    assert target.read_bytes() == b"sooner"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.ledger"])
def test_a_batch_keeps_its_files_even_if_forced(tmp_path: Path, name: str) -> None:
    for one in ("out.jsonl", "out.jsonl.ledger"):
        (tmp_path / one).write_bytes(b"rows")
    with pytest.raises(InputError, match="belongs to a batch"):
        put(tmp_path / name, b"gone", force=True)
    assert (tmp_path / name).read_bytes() == b"rows"


def test_a_link_to_a_batch_s_output_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(b"rows")
    (tmp_path / "out.jsonl.ledger").write_bytes(b"rows")
    (tmp_path / "link.csv").symlink_to("out.jsonl")
    put(tmp_path / "link.csv", b"table", force=True)
    assert (tmp_path / "out.jsonl").read_bytes() == b"rows"
    assert (tmp_path / "link.csv").read_bytes() == b"table"


def test_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, says in {
        "folder": "is no regular file",
        "pipe": "is no regular file",
        "dangling": "is no regular file",
        "none/a.csv": "there is no folder",
    }.items():
        with pytest.raises(InputError, match=says):
            check(str(tmp_path / name), force=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"a\.csv: cannot be written \(No space left"),
        placed(str(tmp_path / "a.csv"), force=False),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert names(tmp_path) == []
