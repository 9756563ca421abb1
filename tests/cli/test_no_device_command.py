"""Devices that cannot do it, through the whole command: one line and exit 5, and neither the file
nor the network is touched. torch.cuda's answers are pretended; the rest is real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from tokenreduce import nvidia

Run = Callable[..., Result]
GIB = 2**30
ASK = ("ask", __file__, "Q", "--quiet", "--device", "cuda")


@pytest.fixture(autouse=True)
def _nothing_else_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("too late: a file was opened or the network asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", reached)
    monkeypatch.setattr("tokenreduce.video.process.Child.__init__", reached)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A card of 24 GiB that can do everything, until an answer is set to another."""
    for name, answer in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "init": lambda: None,
        "get_device_capability": lambda *_: (8, 6),
        "get_arch_list": lambda: ["sm_75", "sm_86"],
        "get_device_name": lambda *_: "GeForce 1",
        "mem_get_info": lambda *_: (24 * GIB, 24 * GIB),
        "memory_reserved": lambda *_: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr("tokenreduce.models.device_check.fault", lambda *_: None)
    return monkeypatch


def refusal(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (5, ""), result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("run `tokenreduce doctor`\n")
    return result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize(
    "command",
    [
        ASK,
        ("compare", __file__, "Q", "--quiet", "--device", "cuda"),
        ("batch", "a.mp4", "-q", "Q", "-o", "rows.jsonl", "--quiet", "--device", "cuda:1"),
    ],
)
def test_no_card(
    run: Run, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"listed, and not opened")
    assert "this machine has 0 cuda devices that torch" in refusal(run(*command))
    assert list(tmp_path.glob("rows*")) == []


def _raise(error: Exception) -> Callable[..., Any]:
    def raising(*_: Any) -> Any:
        raise error

    return raising


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("get_device_capability", lambda *_: (6, 1), "has compute capability 6.1, for which torch"),
        (
            "init",
            _raise(
                RuntimeError("The NVIDIA driver on your system is too old (found version 11040)")
            ),
            "serves CUDA up to 11.4, and this torch needs a newer one: update the driver",
        ),
        (
            "mem_get_info",
            _raise(
                RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\n!")
            ),
            "the card is busy or another program's alone",
        ),
        ("mem_get_info", lambda *_: (0, 24 * GIB), "0.0 of its 24.0 GiB are free"),
        ("mem_get_info", lambda *_: (1000, 1000), "the weights of demo alone take 0.0 GiB"),
    ],
)
def test_a_card_that_cannot(
    run: Run, card: pytest.MonkeyPatch, name: str, answer: Callable[..., Any], says: str
) -> None:
    card.setattr(torch.cuda, name, answer)
    assert says in refusal(run(*ASK, "--model", "demo"))


def test_bitsandbytes_without_a_kernel(run: Run, card: pytest.MonkeyPatch) -> None:
    card.setattr(
        "tokenreduce.models.device_check.fault", lambda *_: "RuntimeError: no kernel image"
    )
    line = refusal(run(*ASK, "--model", "demo", "--quantize", "nf4"))
    assert (
        "quantize nf4: bitsandbytes does not work on cuda (RuntimeError: no kernel image)" in line
    )


def test_a_card_that_can_lets_the_file_be_looked_at(run: Run, card: pytest.MonkeyPatch) -> None:
    """So that the refusals above are of the card."""
    assert "too late" in str(run(*ASK, "--model", "demo").exception)


def test_a_card_left_aside_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(nvidia, "usable_card", lambda _: True)
    done = run("ask", __file__, "Q", "--model", "demo")
    warning = done.stderr.splitlines()[0]
    assert warning.startswith(
        "warning: device auto: an NVIDIA driver is here, but torch cannot use"
    )
    assert "too late" in str(done.exception)
