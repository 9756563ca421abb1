"""Recording processes that are killed: no acknowledged row is lost, and resuming ends the same."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.batch.exporting import Projection
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.rows import Row

RECORDER = Path(__file__).with_name("recorder.py")
ROWS = 1500


def _start(output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(RECORDER), str(output), str(ROWS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(output: Path) -> None:
    recorder = _start(output)
    _, err = recorder.communicate(timeout=120)
    assert (recorder.returncode, err) == (0, "")


def _kill_after(output: Path, rows: int, seconds: float) -> list[str]:
    """Kills a recorder that long after it acknowledged so many rows. Returns all it did."""
    recorder = _start(output)
    assert recorder.stdout is not None
    said = [recorder.stdout.readline() for _ in range(rows)]
    time.sleep(seconds)
    recorder.kill()
    rest, err = recorder.communicate(timeout=60)
    assert (recorder.returncode, err) == (-9, ""), "it was to be killed before its end"
    # A line that was cut off was not said.
    return [line for line in "".join([*said, rest]).split("\n")[:-1] if line]


def _rows(output: Path) -> list[Row]:
    with Ledger.open(ledger_of(output), readonly=True) as ledger:
        return list(ledger.rows())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "answers.jsonl"
    _finish(output)
    assert len(_rows(output)) == ROWS
    assert sorted(os.listdir(output.parent)) == ["answers.jsonl", "answers.jsonl.ledger"]
    return output


def test_nothing_acknowledged_is_lost_at_any_point(tmp_path: Path, uninterrupted: Path) -> None:
    """Killed twelve times in one batch, then finished: the same rows in the same order."""
    output = tmp_path / "answers.jsonl"
    dice = random.Random(5)
    acknowledged: list[str] = []
    for _ in range(12):
        new = _kill_after(output, dice.randrange(8), dice.random() * 0.01)
        assert set(new).isdisjoint(acknowledged)
        acknowledged += new
        recorded = [row.id for row in _rows(output)] if ledger_of(output).exists() else []
        assert set(acknowledged) <= set(recorded)
        assert len(recorded) - len(set(recorded)) == 0
        # The last row of each run may be recorded without having been acknowledged.
        assert len(recorded) <= len(acknowledged) + 12
        acknowledged = recorded
    assert acknowledged
    _finish(output)
    assert _rows(output) == _rows(uninterrupted)
    assert output.read_bytes() == uninterrupted.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["answers.jsonl", "answers.jsonl.ledger"]


@pytest.mark.parametrize("seed", range(6))
def test_the_jsonl_is_drawn_anew_from_what_a_killed_process_left(tmp_path: Path, seed: int) -> None:
    output = tmp_path / "answers.jsonl"
    dice = random.Random(seed)
    acknowledged = _kill_after(output, dice.randrange(1, 60), dice.random() * 0.01)
    with Ledger.open(ledger_of(output)) as ledger, Projection(output, ledger) as projection:
        projection.rewrite()
        recorded = [row.id for row in ledger.rows()]
    lines = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [line["id"] for line in lines] == recorded
    assert recorded[: len(acknowledged)] == acknowledged


def test_what_a_killed_process_left_can_be_read_and_stays_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    acknowledged = _kill_after(output, 20, 0)
    files = [Path(f"{output}.ledger{ending}") for ending in ("", "-wal")]
    before = [file.read_bytes() for file in files]
    assert [row.id for row in _rows(output)][:20] == acknowledged[:20]
    assert [file.read_bytes() for file in files] == before


def test_a_placeholder_is_never_there_with_its_row(tmp_path: Path) -> None:
    """Both change in one transaction, so no kill can come between."""
    recorder = _recorder()
    output = tmp_path / "answers.jsonl"
    with Ledger.create(ledger_of(output)) as ledger:
        for number in range(ROWS):
            row = recorder.row(number)
            missing = {"id": recorder.placeholder(number), "status": "failed", "answer": None}
            ledger.record(Row(**{**row.__dict__, **missing}))
    _kill_after(output, 30, 0.002)
    left = {row.id for row in _rows(output)}
    assert len(left) == ROWS
    for number in range(ROWS):
        assert (recorder.row(number).id in left) != (recorder.placeholder(number) in left)


def _recorder() -> Any:
    spec = importlib.util.spec_from_file_location("batch_recorder", RECORDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
