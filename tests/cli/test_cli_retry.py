"""`results retry`: which rows are asked again, with which settings, and with what exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tokenreduce.batch.jobs import Asked
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.rows import Failure, Row, id_of, key_of
from tokenreduce.batch.sources import Listing

Run = Callable[..., Any]
FIRST, SECOND = "1" * 64, "2" * 64


def failed(number: int, settings: str = FIRST, id: str | None = None) -> Row:
    key = key_of(f"{number:064}", "Who?", settings)
    return Row(
        id=id or id_of(key),
        key=key,
        settings=settings,
        content=f"{number:064}",
        file=f"{number}.mp4",
        question="Who?",
        status="failed",
        attempts=1,
        started="2026-01-02T03:04:05.006Z",
        finished="2026-01-02T03:04:06.007Z",
        host="here",
        worker="cpu",
        failure=Failure("InputError", "is empty"),
    )


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    with Ledger.create(ledger_of("answers.jsonl")) as ledger:
        ledger.add_settings(FIRST, {"seed": "0"}, {"model": "demo"})
        ledger.add_settings(SECOND, {"seed": "1"}, {"model": "demo", "seed": "1"})
    return "answers.jsonl"


def record(out: str, *rows: Row) -> None:
    with Ledger.open(ledger_of(out)) as ledger:
        for row in rows:
            ledger.record(row)
            Path(row.file).touch()


@dataclass
class StubRun:
    """In place of a run: ends as `codes` says, one after the other."""

    codes: list[int]
    asked: list[tuple[str, Listing]] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, _: str, chosen: Any, numbers: Any, **__: Any) -> StubRun:
        self.numbers.append(numbers)
        return self

    def over(self, listing: Listing, *, again: Any) -> int:
        self.asked.append((again.digest, listing))
        return self.codes[len(self.asked) - 1]


@pytest.mark.parametrize(
    ("codes", "ends"),
    [((0, 0), 0), ((3, 0), 3), ((0, 3), 3), ((4, 0), 0), ((0, 4), 0), ((4, 4), 4), ((4, 3), 3)],
)
def test_the_exit_code_is_that_of_all_settings_together(
    run: Run,
    out: str,
    part: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    codes: tuple[int, int],
    ends: int,
) -> None:
    record(out, failed(1), failed(2, SECOND), failed(3, SECOND, "mine"))
    stub = StubRun(list(codes))
    monkeypatch.setattr(part("batch_retry"), "Run", stub)
    result = run("results", "retry", out, "--failed")
    assert (result.exit_code, result.stderr) == (ends, "")
    assert [digest for digest, _ in stub.asked] == [FIRST, SECOND]
    # The made id may become another, and its failure goes then; the user's stays what it is.
    assert [job.asked for job in stub.asked[1][1].jobs] == [
        (Asked("Who?", None, failed(2, SECOND).id),),
        (Asked("Who?", "mine"),),
    ]


@pytest.mark.parametrize("code", [130, 143])
def test_interrupted_it_asks_nothing_more(
    run: Run,
    out: str,
    part: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    record(out, failed(1), failed(2, SECOND))
    stub = StubRun([code, 0])
    monkeypatch.setattr(part("batch_retry"), "Run", stub)
    assert run("results", "retry", out, "--failed").exit_code == code
    assert len(stub.asked) == 1


def test_who_works_and_how_long_is_told_anew(
    run: Run,
    out: str,
    part: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record(out, failed(1))
    stub = StubRun([0])
    monkeypatch.setattr(part("batch_retry"), "Run", stub)
    given = ("--timeout", "60", "--retries", "2", "--workers", "3")
    assert run("results", "retry", out, "--failed", *given).exit_code == 0
    (numbers,) = stub.numbers
    found = {name: numbers[name] for name in ("timeout", "retries", "workers", "cluster")}
    assert found == {"timeout": 60, "retries": 2, "workers": 3, "cluster": None}
    wrong = run("results", "retry", out, "--failed", "--workers", "none")
    assert wrong.exit_code == 2
    assert "--workers" in wrong.stderr
    assert len(stub.asked) == 1


def test_where_nothing_failed_it_says_so(run: Run, out: str) -> None:
    result = run("results", "retry", out, "--failed")
    assert (result.exit_code, result.stderr) == (4, "no row has failed\n")


def test_from_a_folder_where_no_file_is_nothing_is_asked(
    run: Run,
    out: str,
    tmp_path: Path,
    part: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record(out, failed(1), failed(2), failed(3))
    stub = StubRun([0])
    monkeypatch.setattr(part("batch_retry"), "Run", stub)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = run("results", "retry", f"../{out}", "--failed")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "1.mp4: there is nothing of that name here and of 2 more" in line
    assert stub.asked == []
    Path("2.mp4").touch()  # some may have been deleted
    assert run("results", "retry", f"../{out}", "--failed").exit_code == 0


def test_where_others_of_the_batch_are_it_is_the_right_folder(
    run: Run, out: str, part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = StubRun([3])
    monkeypatch.setattr(part("batch_retry"), "Run", stub)
    answered = replace(failed(2), status="answered", failure=None, answer={"answer": "yes"})
    record(out, failed(1), answered)
    Path("1.mp4").unlink()
    assert run("results", "retry", out, "--failed").exit_code == 3
    assert len(stub.asked) == 1


def test_settings_that_mean_something_else_by_now_are_told_and_nothing_is_asked(
    run: Run, out: str
) -> None:
    record(out, failed(1))
    before = ledger_of(out).read_bytes()
    result = run("results", "retry", out, "--failed")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "its failed rows were asked with other settings; now " in line
    assert "seed 0 (was" not in line
    assert "preset balanced (was not set)" in line
    assert ledger_of(out).read_bytes() == before
