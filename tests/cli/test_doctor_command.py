"""`tokenreduce doctor` as a command: lines, JSON, exit codes, and installations that are broken."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from tokenreduce.health.finding import Asked, Finding

Run = Callable[..., Result]
Process = Callable[..., subprocess.CompletedProcess[str]]

FINE = Finding("python", "ok", "3.12")
STRANGE = Finding("device", "warning", "cpu: no GPU; a smaller --model is faster", True)
WRONG = Finding("model", "problem", "x: tensor missing: download it again")
SMALL = Finding("memory", "problem", "1 GiB free: end other programs", True)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the doctor finds; the settings it was asked with are in `asked` of the last."""
    told: list[Finding] = []

    def examine(asked: Asked) -> Iterator[Finding]:
        yield from told
        yield Finding("asked", "ok", repr(asked))

    monkeypatch.setattr("tokenreduce.health.checkup.examine", examine)
    return told


@pytest.mark.parametrize(
    ("told", "code", "last"),
    [
        ([FINE], 0, "all is in order"),
        ([FINE, STRANGE], 0, "1 warning"),
        ([WRONG, STRANGE, STRANGE], 2, "1 problem, 2 warnings"),
        ([WRONG, SMALL], 5, "2 problems"),
    ],
)
def test_lines_and_exit_codes(
    run: Run, found: list[Finding], told: list[Finding], code: int, last: str
) -> None:
    found += told
    done = run("doctor", "--model", "demo")
    assert (done.exit_code, done.stderr) == (code, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == last
    for one in told:
        assert f"{one.state:<7}  {one.name:<12}  {one.text}" in lines


def test_json_is_one_object(run: Run, found: list[Finding]) -> None:
    found += [FINE, SMALL]
    done = run("doctor", "--model", "demo", "--json")
    assert (done.exit_code, done.stderr) == (5, "")
    told = json.loads(done.stdout)
    assert told["exit_code"] == 5
    assert {"name": "python", "state": "ok", "text": "3.12", "device": False} in told["findings"]
    assert {one["name"] for one in told["findings"]} >= {"settings", "output", "memory"}


def test_it_looks_at_what_would_be_asked_with(
    run: Run, found: list[Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENREDUCE_DEVICE", "cuda:1")
    monkeypatch.setenv("TOKENREDUCE_DEVISE", "cuda:1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("doctor", "-m", "demo", "--quantize", "nf4")
    asked = Asked("demo", None, "cuda:1", "auto", "nf4", offline=True)
    assert repr(asked) in done.stdout
    assert "warning  settings      TOKENREDUCE_DEVISE: no such setting; see" in done.stdout


def test_settings_that_cannot_be(run: Run) -> None:
    done = run("doctor", "--device", "tpu")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --device is 'tpu'; it must be")


def test_a_whole_run_with_a_torch_and_a_decoder_that_are_broken(
    process: Process, tmp_path: Path
) -> None:
    """Whatever else is there is looked at; no traceback, and nothing is downloaded."""
    for name, content in {
        "torch": "raise ImportError('libtorch_cuda.so: undefined symbol: ncclGroupStart')",
        "av": "import os; os.abort()",
    }.items():
        (tmp_path / f"{name}.py").write_text(content)
    done = process(*("doctor", "--model", "demo"), env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (5, "")
    lines = {line.split()[1]: line for line in done.stdout.splitlines()[:-1]}
    assert lines["torch"].startswith("problem  torch         cannot be imported (ImportError: libt")
    assert lines["device"] == "warning  device        not looked at, because of torch"
    assert "crashed (SIGABRT)" in lines["pyav"]
    assert lines["decoding"] == "warning  decoding      not looked at, because of pyav"
    assert lines["model"].startswith(
        "warning  model         demo: 0.01 GB, whole; tensors not comp"
    )
    assert lines["cache"].startswith("ok       cache")
    assert done.stdout.splitlines()[-1].startswith("2 problems, ")
