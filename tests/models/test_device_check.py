"""Devices that cannot do it, pretended by answers of torch.cuda: each refused in one line that says
what to do. What a real card answers is left to the tests that have one."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from tokenreduce import nvidia
from tokenreduce.errors import CapacityError, ModelError
from tokenreduce.models import device_check, kernels
from tokenreduce.models.device_check import (
    available,
    check_device,
    check_kernels,
    check_room,
    has_code,
    left_aside,
    meaning,
    slow_attention,
    why_not,
    writes_attention,
)
from tokenreduce.models.load import load, placed, read_spec
from tokenreduce.models.placement import choose_device, place
from tokenreduce.models.quantize import Quantize
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIB = 2**30
SEVEN_B = ModelSpec(
    "seven",
    VisionSpec(26, 1152, 4304, 16, 384, 14),
    TextSpec(28, 3584, 18944, 28, 4, 128, 152064, 32768),
    "bilinear",
    "grid",
    64,
    True,
)
BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """One card as torch would tell of it; its fields can be changed."""
    told = SimpleNamespace(capability=(8, 6), free=22 * GIB, total=24 * GIB, error=None)

    def raising(*_: Any) -> None:
        if told.error is not None:
            raise told.error

    def memory(*_: Any) -> tuple[int, int]:
        raising()
        return told.free, told.total

    for name, answer in {
        "is_available": lambda: told.error is None,
        "device_count": lambda: 1,
        "init": raising,
        "get_device_capability": lambda *_: told.capability,
        "get_arch_list": lambda: BUILT,
        "get_device_name": lambda *_: "GeForce 1",
        "mem_get_info": memory,
        "memory_reserved": lambda *_: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return told


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(CapacityError) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith("run `tokenreduce doctor`")
    return line


def test_a_card_that_can_do_it_is_not_refused(card: SimpleNamespace) -> None:
    assert choose_device("auto") == CUDA
    check_device(CUDA)
    check_room("seven", SEVEN_B, "nf4", torch.bfloat16, CUDA)
    check_room("seven", SEVEN_B, "none", torch.bfloat16, CUDA)


@pytest.mark.parametrize(
    ("capability", "says"),
    [
        ((6, 1), "GeForce 1 has compute capability 6.1, for which torch .* begins at 7.5.* older"),
        ((13, 0), "capability 13.0, for which torch .* has that of sm_75, .*; install a newer"),
    ],
)
def test_a_card_without_code_in_this_torch(
    card: SimpleNamespace, capability: tuple[int, int], says: str
) -> None:
    card.capability = capability
    assert refusal(check_device, CUDA).startswith("device cuda: ")
    check_device(CPU)  # is none of its business
    with pytest.raises(CapacityError, match=says):
        place("cuda", "auto", "none", SEVEN_B.text)


@pytest.mark.parametrize(
    ("built", "runs", "fails"),
    [
        (["sm_86"], [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        (["compute_80"], [(8, 0), (9, 0), (12, 0)], [(7, 5)]),
        (["sm_90a"], [(9, 0)], [(9, 1), (8, 9), (10, 0)]),
        (["sm_100f"], [(10, 0), (10, 3)], [(11, 0), (9, 0)]),
        (["gfx942"], [], [(9, 4)]),
        ([], [], [(9, 0)]),
    ],
)
def test_what_code_runs_where(
    built: list[str], runs: list[tuple[int, int]], fails: list[tuple[int, int]]
) -> None:
    assert [of for of in runs + fails if has_code(of, built)] == runs


OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/"
)
BUSY = (
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable\n"
    "CUDA kernel errors might be asynchronously reported at some other API call"
)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (OLD_DRIVER, "serves CUDA up to 12.2, and this torch needs a newer one: update the driver"),
        (BUSY, "the card is busy or another program's alone: end that program"),
        ("Torch not compiled with CUDA enabled", "built without CUDA: install"),
        ("No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES"),
        ("CUDA error: unknown error\nmore\n", "CUDA does not start: CUDA error: unknown error"),
        ("", "CUDA does not start: no reason given"),
    ],
)
def test_what_cuda_says_as_it_starts(card: SimpleNamespace, message: str, says: str) -> None:
    assert says in meaning(message)
    for kind in (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError):
        card.error = kind(message)
        assert says in refusal(check_device, CUDA)
        assert why_not() == meaning(message)


def test_an_old_driver_is_named_where_cuda_was_asked_for(card: SimpleNamespace) -> None:
    card.error = RuntimeError(OLD_DRIVER)
    line = refusal(choose_device, "cuda")
    assert "has 0 cuda devices" in line
    assert "serves CUDA up to 12.2" in line


def test_memory_that_is_taken_and_memory_that_is_not_there(card: SimpleNamespace) -> None:
    whole = refusal_of_room(card, total=12, free=11, quantize="none")
    assert "it has 12.0 GiB, and the weights of seven alone take 15.0 GiB;" in whole
    assert "choose --quantize nf4, --device-map auto or --device cpu" in whole
    small = refusal_of_room(card, total=4, free=4, quantize="nf4")
    assert "GiB in nf4; choose a smaller --model, --device-map auto or --device cpu" in small
    taken = refusal_of_room(card, total=24, free=3, quantize="nf4")
    assert "3.0 of its 24.0 GiB are free" in taken
    assert "end what else uses the card" in taken


def refusal_of_room(card: SimpleNamespace, *, total: int, free: int, quantize: str) -> str:
    card.total, card.free = total * GIB, free * GIB
    return refusal(check_room, "seven", SEVEN_B, quantize, torch.bfloat16, CUDA)


def test_what_this_process_holds_counts_as_free(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    card.free = 3 * GIB
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 10 * GIB)
    check_room("seven", SEVEN_B, "nf4", torch.bfloat16, CUDA)
    check_room("seven", SEVEN_B, "none", torch.bfloat16, CPU)  # of no CPU


@pytest.mark.parametrize("quantize", get_args(Quantize))
def test_bitsandbytes_computes_on_a_cpu(quantize: Quantize) -> None:
    assert kernels.fault(quantize, CPU) is None


def test_bitsandbytes_without_a_kernel_for_the_card(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_check, "fault", lambda *_: "RuntimeError: no kernel image")
    line = refusal(place, "cuda", "auto", "auto", SEVEN_B.text)
    assert "bitsandbytes does not work on cuda (RuntimeError: no kernel image)" in line
    assert "choose --quantize none" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_bitsandbytes_cannot_reach() -> None:
    assert refusal(check_kernels, "nf4", CUDA).startswith(
        "quantize nf4: bitsandbytes does not work on cuda (AssertionError: Torch not compiled"
    )


def test_a_bitsandbytes_that_computes_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    right = functional.dequantize_4bit
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *a, **k: 1.1 * right(*a, **k))
    assert "its products are wrong by" in (kernels.fault("nf4", CPU) or "")


def test_a_bitsandbytes_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError(f"{name}: lib.so\nmany more lines")

    monkeypatch.setattr(kernels, "import_module", broken)
    assert kernels.fault("nf4", CPU) == "OSError: bitsandbytes: lib.so"


def test_the_card_is_refused_before_anything_is_looked_for(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("the configuration was asked for first")

    monkeypatch.setattr("tokenreduce.models.load.read_spec", reached)
    card.capability = (5, 0)
    refusal(placed, "no/such-model", device="cuda", warn=reached)


def test_a_small_card_is_refused_before_the_download(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))  # and not one weight
    monkeypatch.setattr(device_check, "fault", lambda *_: None)
    assert placed(str(tmp_path), device="cuda", warn=print).quantize == "nf4"
    card.total = card.free = 4 * GIB
    for call in (placed, load):
        options = {"warn": print} if call is placed else {}
        line = refusal(call, str(tmp_path), device="cuda", **options)
        assert "it has 4.0 GiB" in line
        assert "choose a smaller --model" in line


def test_the_default_model_is_refused_before_its_configuration_is_fetched(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked first")

    monkeypatch.setattr("huggingface_hub.snapshot_download", reached)
    monkeypatch.setattr(device_check, "fault", lambda *_: None)
    card.total = card.free = 4 * GIB
    line = refusal(placed, "llava-video-7b", device="cuda", warn=reached)
    assert "the weights of llava-video-7b alone take 5.9 GiB in nf4" in line


def test_a_card_left_aside_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(nvidia, "usable_card", lambda _: True)
    told: list[str] = []
    placed("demo", warn=told.append)
    (line,) = told
    assert line.startswith("device auto: an NVIDIA driver is here, but torch cannot use a card (")
    assert line.endswith("so the CPU does all the work; run `tokenreduce doctor`")
    assert "\n" not in line
    for asked in ("cpu", "cuda"):
        assert left_aside(asked) is None
    monkeypatch.setattr(nvidia, "usable_card", lambda _: False)
    assert left_aside("auto") is None
    assert not available()
    assert read_spec("demo").name == "demo"


SMI = """#!/bin/sh
case "$*" in
  *compute-apps*) printf '41, 1024, python3\\n42, [N/A], a, b\\n' ;;
  *driver_version*) echo 550.54.15 ;;
  *) echo '| NVIDIA-SMI 550.54.15  Driver Version: 550.54.15  CUDA Version: 12.4 |' ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for nvidia-smi, the only program on the path."""
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia, "_DRIVER", tmp_path / "no-such-driver")
    monkeypatch.setattr(nvidia, "_NODES", tmp_path)
    return program


def test_what_the_driver_tells(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvidia.usable_card({})
    assert not nvidia.usable_card({"CUDA_VISIBLE_DEVICES": ""})
    assert nvidia.usable_card({"CUDA_VISIBLE_DEVICES": "0"})
    assert nvidia.driver_version() == "550.54.15"
    assert nvidia.driver_cuda() == "12.4"
    assert nvidia.users("GPU-1") == (
        nvidia.User(41, "python3", 1 << 30),
        nvidia.User(42, "a, b", None),
    )
    version = smi.with_name("version")
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.1.05  Thu\nGCC 12.2\n")
    monkeypatch.setattr(nvidia, "_DRIVER", version)
    assert nvidia.driver_version() == "535.1.05"


@pytest.mark.parametrize(
    "broken", ["#!/bin/sh\nexit 9\n", "not a program", "#!/bin/sh\nsleep 30\n"]
)
def test_a_driver_that_does_not_answer(
    smi: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(nvidia, "SMI_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{smi.parent}:/bin:/usr/bin")
    smi.write_text(broken)
    assert nvidia.driver_version() is None
    assert nvidia.driver_cuda() is None
    assert nvidia.users("GPU-1") is None
    smi.unlink()


def test_cards_are_counted_on_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_PCI", tmp_path)
    assert nvidia.cards_on_the_bus() == 0
    for name, vendor, kind in (
        ("card", "0x10de", "0x030000"),
        ("accelerator", "0x10de", "0x030200"),
        ("its sound", "0x10de", "0x040300"),
        ("another's card", "0x1002", "0x030000"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "unreadable").mkdir()
    assert nvidia.cards_on_the_bus() == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_card_does_it() -> None:
    check_device(CUDA)
    assert kernels.fault("nf4", CUDA) is None
    assert kernels.fault("int8", CUDA) is None
    assert placed("demo", device="cuda", warn=print).device == CUDA


@pytest.mark.parametrize(
    ("capability", "dtype", "device", "slow"),
    [
        ((7, 5), torch.bfloat16, CUDA, True),
        ((7, 5), torch.float16, CUDA, False),
        ((7, 5), torch.float32, CUDA, False),
        ((8, 0), torch.bfloat16, CUDA, False),
        ((7, 5), torch.bfloat16, CPU, False),
    ],
)
def test_a_card_without_attention_in_bfloat16_is_known(
    card: SimpleNamespace,
    capability: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    slow: bool,
) -> None:
    card.capability = capability
    assert writes_attention(device, dtype) is slow
    told = slow_attention(device, dtype)
    assert (told is not None) is slow
    assert told is None or ("7.5" in told and "try --dtype float16" in told and "\n" not in told)


def test_a_host_with_too_little_memory_is_told_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told: list[str] = []
    for free, quantize, said in (
        (64 << 30, "none", None),
        (None, "none", None),
        (20 << 30, "none", "take 29.9 GiB, and 20.0 GiB of the host's memory are free: choose "
         "--quantize nf4 or a smaller --model"),
        (4 << 30, "none", "free: choose a smaller --model, or end what else runs"),
        (4 << 30, "nf4", "GiB in nf4, and 4.0 GiB"),
    ):  # fmt: skip
        monkeypatch.setattr(device_check, "host_free_bytes", lambda free=free: free)
        with pytest.raises(ModelError, match="offline"):  # nothing of it is here
            placed(
                "llava-video-7b", device="cpu", quantize=quantize, offline=True, warn=told.append
            )
        assert len(told) == (said is not None)
        assert said is None or said in told.pop()


def test_no_card_has_no_slow_attention(card: SimpleNamespace) -> None:
    card.capability, card.error = (7, 5), RuntimeError("no card")
    assert not writes_attention(CUDA, torch.bfloat16)


def test_it_is_told_before_loading_and_dtype_stays_as_it_is(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.setattr(device_check, "fault", lambda *_: None)
    told: list[str] = []
    card.capability = (7, 5)
    assert placed(str(checkpoint), device="cuda", warn=told.append).dtype == torch.bfloat16
    assert len(told) == 1
    assert "only slow attention" in told[0]
    placed(str(checkpoint), device="cuda", dtype="float16", warn=told.append)
    card.capability = (8, 6)
    placed(str(checkpoint), device="cuda", warn=told.append)
    assert len(told) == 1
