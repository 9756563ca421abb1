"""A run killed at any moment and resumed ends as one that was not: row for row."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.rows import Row

SCRIPT = Path(__file__).with_name("killed_run.py")
ROOT = Path(__file__).resolve().parents[2]
FILES, ROWS = 60, 120
KILLS = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(FILES):
        (tmp_path / f"{number}.mp4").write_bytes(f"content {number}".encode())
    return tmp_path


def start(folder: Path) -> subprocess.Popen[bytes]:
    # -P keeps the script's folder off the path; the checkout may not be installed.
    code = f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(SCRIPT)!r}"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"{code}, run_name='__main__')", str(folder), str(FILES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(folder: Path) -> None:
    process = start(folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def rows(folder: Path) -> list[Row]:
    with Ledger.open(ledger_of(folder / "out.jsonl"), readonly=True) as ledger:
        return list(ledger.rows())


def timeless(row: Row) -> Row:
    return replace(row, started="", finished="")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_killed_at_fifty_points_and_resumed_it_ends_the_same(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draw = random.Random(0)
    known: list[Row] = []
    begun = 0.0
    for kill in range(KILLS):
        if kill and len(known) == ROWS:
            for path in folder.glob("out.jsonl*"):
                path.unlink()
            known = []
        process = start(folder)
        assert process.stdout is not None
        if kill % 3:  # at the work; every third while it starts or is at its beginning
            process.stdout.readline()
        time.sleep(draw.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        begun += process.wait() == -signal.SIGKILL
        process.communicate()
        if ledger_of(folder / "out.jsonl").exists():
            found = rows(folder)
            assert found[: len(known)] == known  # what was acknowledged is never lost or changed
            known = found
    assert begun >= KILLS / 2  # the others were through before
    finish(folder)
    after = rows(folder)
    assert after[: len(known)] == known
    assert [line["id"] for line in lines(folder)] == [row.id for row in after]
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    for number in range(FILES):
        (undisturbed / f"{number}.mp4").write_bytes(f"content {number}".encode())
    finish(undisturbed)
    names = {str(folder): str(undisturbed)}
    assert [
        timeless(replace(row, file=row.file.replace(str(folder), names[str(folder)])))
        for row in after
    ] == [timeless(row) for row in rows(undisturbed)]


def test_two_at_once_do_not_share_an_output(folder: Path) -> None:
    first = start(folder)
    assert first.stdout is not None
    assert first.stdout.readline() == b"begun\n"
    second = start(folder)
    _, errors = second.communicate(timeout=60)
    first.communicate(timeout=120)
    if b"LedgerError" in errors:  # else the first was through before the second came
        assert str(first.pid).encode() in errors
    assert first.returncode == 0
    assert len({row.id for row in rows(folder)}) == len(lines(folder)) == ROWS
