"""`tokenreduce compare` and `tokenreduce methods`, with the demo model on a real clip."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tokenreduce.demo import clips

Run = Callable[..., Result]
QUESTION = "What colour is the star that appears briefly?"
DEMO = ("--model", "demo", "--frames", "16")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    (made,) = clips.make(tmp_path_factory.mktemp("clips"), 1, 31)
    return str(made.path)


def test_a_table_on_stdout_and_progress_on_stderr(run: Run, clip: str) -> None:
    done = run("compare", clip, QUESTION, *DEMO, "--methods", "aim,fastv", "--mean-budgets", "200")
    assert done.exit_code == 0, done.stderr
    head, full, aim, fastv, empty, shared = done.stdout.splitlines()
    assert head.split() == ["setting", "same", "in", "mean", "prefill", "s", "MiB", "answer"]
    assert full.startswith("full, 16 frames  yes   672")
    assert aim.startswith("aim mean 200")
    assert " 672 " in fastv
    assert empty == ""
    assert shared.startswith("once for all, in seconds: load ")
    assert "decode" in done.stderr
    assert "full" not in done.stderr


def test_json_and_csv(run: Run, clip: str) -> None:
    options = (*DEMO, "--methods", "random", "--budgets", "100,50", "--quiet")
    found = json.loads(run("compare", clip, QUESTION, *options, "--json").stdout)
    assert [row["tokens"]["merged"] for row in found["rows"]] == [672, 100, 50]
    assert found["rows"][0]["same_as_full"] is True
    rows = list(
        csv.DictReader(io.StringIO(run("compare", clip, QUESTION, *options, "--csv").stdout))
    )
    assert [row["visual_tokens"] for row in rows] == ["672", "100", "50"]
    assert float(rows[1]["prefill_flop"]) < float(rows[0]["prefill_flop"])
    assert rows[0]["answer"] == found["rows"][0]["answer"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--methods", "aimm"], "error: no method 'aimm'; there are: "),
        (["--mean-budgets", "few"], "error: --mean-budgets is 'few'; it must be whole numbers"),
        (["--budgets", "0"], "error: --budgets is '0'; it must be whole numbers of visual tokens"),
        (["--presets", "slow"], "error: no preset 'slow'; there are: "),
        (["--methods", "fastv", "--budgets", "50"], "give --mean-budget, or fewer --frames"),
    ],
)
def test_a_mistake_is_one_line(run: Run, clip: str, options: list[str], says: str) -> None:
    done = run("compare", clip, QUESTION, *DEMO, *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line


def test_no_file(run: Run, tmp_path: Path) -> None:
    done = run("compare", str(tmp_path / "no.mp4"), QUESTION, *DEMO, "--quiet")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_methods_are_listed_and_shown(run: Run) -> None:
    listed = run("methods").stdout
    assert "fastv         llm                         arXiv 2403.06764" in listed
    shown = run("methods", "show", "aim-prune").stdout
    assert "arXiv 2412.03248" in shown
    assert "temperature = 0.1" in shown
    assert run("methods", "show", "nothing").exit_code == 2
