"""The command with real workers and the demo model: the answers of `ask`, a stop, a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.demo import clips
from tokenreduce.pipeline import answer

QUESTIONS = ("What colour is the star that appears briefly?", "How many stars appear?")
ROOT = Path(__file__).resolve().parents[2]
FRAMES = 8
linux_only = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        clips.write(folder / f"{number}.mp4", clips.draw(7, number)[0], 4, size=96)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


@pytest.fixture
def mark() -> Iterator[str]:
    """Of all processes that a test starts, in their environment."""
    value = uuid.uuid4().hex
    yield value
    for pid in alive(value):
        os.kill(pid, signal.SIGKILL)


def alive(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARK={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def start(tmp_path: Path, mark: str) -> Callable[..., subprocess.Popen[str]]:
    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from tokenreduce.cli import app; app()", "batch"]
        options = ["--model", "demo", "--frames", str(FRAMES), "--device", "cpu", "--no-cache"]
        if "--workers" not in arguments:
            options += ["--workers", "1"]
        return subprocess.Popen(
            [*command, *arguments, *options],
            cwd=tmp_path,
            env=os.environ | {"MARK": mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(truth: Callable[[], object], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_answers_are_those_of_ask(
    folder: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    asked = [part for question in QUESTIONS for part in ("-q", question)]
    process = start(str(folder), *asked, "-o", "out.jsonl", "--workers", "auto")
    printed, told = process.communicate(timeout=180)
    assert printed == ""
    assert process.returncode == 3, told
    rows = lines(tmp_path / "out.jsonl")
    assert len(rows) == 10
    for row in rows:
        name = Path(row["file"]).name
        if name == "broken.mp4":
            assert (row["status"], row["answer"]) == ("failed", None)
            assert row["error"]["type"] == "InputError"
            assert "broken.mp4" in row["error"]["reason"]
            continue
        alone = answer(row["file"], row["question"], model="demo", device="cpu", frames=FRAMES)
        expected = alone.to_json()
        assert row["answer"] == expected["answer"]
        assert row["tokens"] == expected["tokens"]
        assert row["video"] == expected["video"]
        paid = row["question"] == QUESTIONS[1]
        assert row["frames"]["source"] == ("session" if paid else "decoded")
        if not paid:
            assert row["flops"] == expected["flops"]
            assert row["seconds"]["decode"] > 0
    assert "8 of 10" in told
    assert "Traceback" not in told


@linux_only
def test_ctrl_c_then_a_dead_worker_then_the_rest(
    folder: Path, tmp_path: Path, mark: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    output = tmp_path / "out.jsonl"
    given = (str(folder), "--pattern", "[0-9].mp4", QUESTIONS[1], "-o", "out.jsonl")
    first = start(*given)
    wait_for(lambda: lines(output))
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=60)
    if len(lines(output)) < 4:  # else all of it was done before the signal came
        assert first.returncode == 130
        assert "finishing the current answers" in told
    assert alive(mark) == []
    second = start(*given)
    wait_for(lambda: len(alive(mark)) > 1 or second.poll() is not None)
    for pid in alive(mark):
        if pid != second.pid:
            os.kill(pid, signal.SIGKILL)  # the worker, while it loads
    _, told = second.communicate(timeout=120)
    assert second.returncode in (0, 4), told
    rows = lines(output)
    assert sorted(Path(row["file"]).name for row in rows) == [f"{n}.mp4" for n in range(4)]
    assert all(row["status"] == "answered" for row in rows)
    assert alive(mark) == []


@linux_only
def test_nothing_outlives_a_killed_driver(
    folder: Path, tmp_path: Path, mark: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(str(folder), QUESTIONS[0], "-o", "out.jsonl")
    wait_for(lambda: len(alive(mark)) > 1)
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(mark), 30.0)
    assert not (tmp_path / "out.jsonl").read_text().strip() or lines(tmp_path / "out.jsonl")


def more_than(rows: int, output: Path, process: subprocess.Popen[str]) -> None:
    """Waits until there are, or the process has ended."""
    wait_for(lambda: len(lines(output)) > rows or process.poll() is not None)


def _said(output: Path) -> list[tuple[Any, ...]]:
    """Of each row what no clock and no earlier run can change."""
    rows = sorted(lines(output), key=lambda row: str(row["id"]))
    return [
        (row["id"], row["status"], row["file"], row["question"], row["answer"], row["error"])
        + ((row["tokens"], row["video"], row["attempts"]) if row["answer"] is not None else ())
        for row in rows
    ]


@pytest.mark.slow
def test_killed_at_fifty_points_with_a_model_it_ends_the_same(
    folder: Path, tmp_path: Path, mark: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    asked = [part for n in range(6) for part in ("-q", f"How many stars appear in part {n}?")]
    given = (str(folder), *asked, "-o")
    whole = start(*given, "whole.jsonl")
    whole.communicate(timeout=180)
    expected = _said(tmp_path / "whole.jsonl")
    assert (whole.returncode, len(expected)) == (3, 30)
    draw, kills, output = random.Random(0), 0, tmp_path / "out.jsonl"
    ids: set[str] = set()
    while kills < 50:
        if len(ids) == 30:
            for path in tmp_path.glob("out.jsonl*"):
                path.unlink()
            ids = set()
        process = start(*given, "out.jsonl")
        before = len(ids)
        if draw.random() < 0.7:  # in the middle of asking, else wherever it is by then
            more_than(before, output, process)
            time.sleep(draw.uniform(0, 0.4))
        else:
            time.sleep(draw.uniform(0, 6))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        found = {row["id"] for row in lines(output)}
        assert ids <= found
        ids = found
    last = start(*given, "out.jsonl")
    last.communicate(timeout=180)
    assert last.returncode == 3
    assert _said(output) == expected
    wait_for(lambda: not alive(mark))
