"""`tokenreduce batch` refuses what cannot be, in one line, before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of this may come so far that a process is started."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("tokenreduce.batch.pool.LocalPool.start", started)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"not read here")
    return folder


@pytest.fixture
def refused(run: Run, clips: Path) -> Callable[..., str]:
    def told(*arguments: str) -> str:
        result = run("batch", *(str(clips) if one == "CLIPS" else one for one in arguments))
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return str(lines[0])

    return told


OUT = ("-o", "out.jsonl", "--model", "demo")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("CLIPS", "Q?"), "no output: give the JSONL to write with -o"),
        (("CLIPS", *OUT), "is a file or folder, where the question should be"),
        (("Q?", *OUT), "no "),
        (OUT, "no question"),
        (("nosuch", "Q?", *OUT), "nosuch"),
        (("CLIPS", "-q", "Q?", "--pattern", "*.mkv", *OUT), "*.mkv"),
        (("CLIPS", "  ", *OUT), "question"),
        (("CLIPS", "Q?", "--shard", "9/8", *OUT), "9/8"),
        (("CLIPS", "Q?", "--workers", "0", *OUT), "--workers is '0'; it must be auto or"),
        (("CLIPS", "Q?", "--workers", "2.5", *OUT), "--workers"),
        (("CLIPS", "Q?", "--timeout", "-1", *OUT), "--timeout"),
        (("CLIPS", "Q?", "--retries", "many", *OUT), "--retries"),
        (("CLIPS", "Q?", "--max-failures", "0", *OUT), "--max-failures"),
        (("CLIPS", "Q?", "--new", "--mix", *OUT), "--new and --mix"),
        (("CLIPS", "Q?", "--questions", "nosuch.csv", *OUT), "nosuch.csv"),
        (("CLIPS", "Q?", "--preset", "nosuch", *OUT), "nosuch"),
        (("CLIPS", "Q?", "--subtitles", "a.srt", *OUT), "one file for all videos"),
        (("CLIPS", "Q?", "-o", "no/such/out.jsonl", "--model", "demo"), "no/such"),
        (("CLIPS", "Q?", "-o", "-", "--model", "demo"), "name a file"),
        (("CLIPS", "Q?", "-o", "CLIPS", "--model", "demo"), "is no regular file"),
        (("CLIPS", "Q?", "-o", "out.jsonl", "--model", "nosuch"), "nosuch"),
    ],
)
def test_one_line_and_exit_2(
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(*arguments)
    assert not list(tmp_path.glob("out.jsonl*")) or "--new" in arguments


def test_an_output_that_no_batch_wrote_is_left_alone(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.jsonl").write_text("my own notes\n")
    assert "no batch wrote" in refused("CLIPS", "Q?", *OUT)
    assert (tmp_path / "out.jsonl").read_text() == "my own notes\n"
    assert list(tmp_path.glob("out.jsonl*")) == [tmp_path / "out.jsonl"]


def test_an_empty_folder_is_told(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(str(tmp_path / "empty"), "Q?", "-o", str(tmp_path / "o.jsonl"))
