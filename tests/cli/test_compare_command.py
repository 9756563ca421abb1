"""`tokenreduce compare` and `tokenreduce methods`, with the demo model on a real clip."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console
from typer.testing import Result

from tokenreduce.compared import Comparison, Refused, Row
from tokenreduce.demo import clips
from tokenreduce.result import Answer

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
    head, full, aim, fastv, empty, shared, note = done.stdout.splitlines()
    assert head.split() == [
        "setting",
        "same",
        "in",
        "mean",
        "TFLOP",
        "LLM",
        "s",
        "MiB",
        "answer",
    ]
    assert full.startswith("full, 16 frames  -     672")
    assert aim.startswith("aim mean 200")
    assert " 672 " in fastv
    assert empty == ""
    assert shared.startswith("once for all, in seconds: load ")
    assert "with the vision tower" in note
    assert done.stderr.splitlines()[-4:] == [
        "encode 16",
        "setting 1 of 3: full, 16 frames",
        "setting 2 of 3: aim mean 200",
        "setting 3 of 3: fastv mean 200",
    ]
    whole, llm = (float(full.split()[i]) for i in (6, 7))
    assert 1 < whole / llm < 2


def test_what_is_refused_has_a_row(run: Run, clip: str) -> None:
    options = (*DEMO, "--methods", "fastv,random", "--mean-budgets", "40", "--quiet")
    done = run("compare", clip, QUESTION, *options)
    assert (done.exit_code, done.stderr) == (0, "")
    line = done.stdout.splitlines()[2]
    assert line.split()[:10] == ["fastv", "mean", "40", *["-"] * 7]
    assert "refused: a mean budget of 40: of 672 visual tokens fastv, which" in line
    assert "leaves at least 56 a layer" in line
    text = run("compare", clip, QUESTION, *options, "--csv").stdout
    full, fastv, random = csv.DictReader(io.StringIO(text))
    assert fastv["refused"] in line
    assert (full["refused"], random["refused"]) == ("", "")
    assert fastv["setting"] == "fastv mean 40"
    assert {value for name, value in fastv.items() if name not in ("setting", "refused")} == {""}
    found = json.loads(run("compare", clip, QUESTION, *options, "--json").stdout)
    assert found["rows"][1] == {"label": "fastv mean 40", "refused": fastv["refused"]}


def test_a_narrow_terminal_has_the_numbers_below_the_answer(
    part: Callable[[str], ModuleType],
    sample: Answer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = (
        Row("full, 16 frames", sample, None, 2**20, 1.0),
        Refused("fastv mean 40", "it cannot be " + 5 * "that low "),
        Row("random mean 40", sample, True, None, 1.0),
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for columns in (60, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        part("compare")._table(Comparison(settings, {"load": 1234.5, "decode": 1.0, "encode": 2.0}))
    text = capsys.readouterr().out
    narrow, wide = text[: text.index("setting ")].splitlines(), text[text.index("setting ") :]
    assert max(map(len, narrow)) <= 60
    assert narrow[0].split() == ["same", "in", "mean", "TFLOP", "LLM", "s", "MiB"]
    assert narrow[1] == "full, 16 frames:  She shows it at 12:30."
    assert narrow[2].split() == ["-", "3360", "2220.0", "64.9", "23.6", "4.010", "1"]
    assert narrow[3].startswith("fastv mean 40:  refused: it cannot be that low")
    assert narrow[5] == "random mean 40:  She shows it at 12:30."
    assert max(map(len, wide.splitlines())) <= 120
    assert [line.split()[-1] for line in wide.splitlines()[:2]] == ["answer", "12:30."]


def test_a_terminal_is_told_which_setting_is_answered(part: Callable[[str], ModuleType]) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=60)
    bars = part("progress").Bars(console, unicode=False)
    bars.setting("full, 16 frames", 1, 2)  # drawn only if it takes a while
    bars.setting("mine\x1b[2J", 2, 2)
    bars.close()
    assert "2/2  mine\\x1b[2J" in drawn.getvalue()


def test_json_and_csv(run: Run, clip: str) -> None:
    options = (*DEMO, "--methods", "random", "--budgets", "100,50", "--quiet")
    found = json.loads(run("compare", clip, QUESTION, *options, "--json").stdout)
    assert [row["tokens"]["merged"] for row in found["rows"]] == [672, 100, 50]
    assert found["rows"][0]["same_as_full"] is None
    assert found["rows"][1]["same_as_full"] in (True, False)
    rows = list(
        csv.DictReader(io.StringIO(run("compare", clip, QUESTION, *options, "--csv").stdout))
    )
    assert [row["visual_tokens"] for row in rows] == ["672", "100", "50"]
    assert float(rows[1]["prefill_flop"]) < float(rows[0]["prefill_flop"])
    assert float(rows[0]["flop"]) == found["rows"][0]["flops_alone"]
    assert float(rows[0]["flop"]) > float(rows[0]["prefill_flop"])
    assert [row["same_as_full"] in ("yes", "no") for row in rows] == [False, True, True]
    assert rows[0]["answer"] == found["rows"][0]["answer"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--methods", "aimm"], "error: no method 'aimm'; there are: "),
        (["--mean-budgets", "few"], "error: --mean-budgets is 'few'; it must be whole numbers"),
        (["--budgets", "0"], "error: --budgets is '0'; it must be whole numbers of visual tokens"),
        (["--presets", "slow"], "error: no preset 'slow'; there are: "),
        (["--methods", "fastv", "--budgets", "50"], "give --mean-budgets, or fewer --frames"),
        (["--json", "--csv"], "error: --json and --csv both say what is written to stdout"),
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
