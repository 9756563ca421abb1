"""The doctor's looks: each on something that is in order, and on the same broken."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import tokenreduce.demo
from tokenreduce import nvidia
from tokenreduce.health import checkup, decoding, device, helping, packages, places
from tokenreduce.health.checkup import ON_DEVICE, ON_FILES, Away, examine, exit_code
from tokenreduce.health.finding import Asked, Finding, Look, of_error
from tokenreduce.health.helping import Failed, Helper

DEMO = Asked("demo", device="cpu")
GIB = 2**30


def one(look: Look, asked: Asked = DEMO) -> Finding:
    (found,) = look(asked)
    assert "\n" not in found.text
    return found


def test_all_looks_are_taken_in_order_and_nothing_is_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    started: list[Any] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    found = list(examine(DEMO))
    names = [each.name for each in found]
    looks = [look.name for look in (*ON_DEVICE, *ON_FILES)]
    assert [name for name in names if name in looks] == looks
    assert names[:2] == ["python", "packages"]
    assert {each.name: each.text for each in found if each.state == "problem"} == {}
    assert exit_code(found) == 0
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


LOOKS = """
import os, time
from tokenreduce.health.finding import Finding

def fine(asked): yield Finding("fine", "ok", asked.model)
def raises(asked): raise ImportError("libx.so: cannot open\\nand much more")
def leaves(asked): raise SystemExit(3)
def crashes(asked): os.abort()
def hangs(asked): time.sleep(60)
def prints(asked):
    print("noise", flush=True); os.write(1, b"more noise\\n")
    yield Finding("prints", "ok", "")
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Helper]:
    """Its process finds LOOKS as the module `some_looks`."""
    (tmp_path / "some_looks.py").write_text(LOOKS)
    start = helping._START.replace(
        "import sys;", f"import sys; sys.path.append({str(tmp_path)!r});"
    )
    monkeypatch.setattr(helping, "_START", start)
    return lambda seconds: Helper(DEMO, seconds)


def test_a_helper_outlives_whatever_a_look_does(helper: Callable[[float], Helper]) -> None:
    fine = [Finding("fine", "ok", "demo")]
    with helper(60) as helping_:
        assert helping_.look("some_looks:fine") == fine
        for name, says in {
            "raises": "ImportError: libx.so: cannot open",
            "leaves": "SystemExit: 3",
            "crashes": "crashed (SIGABRT)",
            "absent": "AttributeError: module 'some_looks' has no attribute 'absent'",
        }.items():
            with pytest.raises(Failed) as failed:
                helping_.look(f"some_looks:{name}")
            assert str(failed.value) == says
            assert helping_.look("some_looks:fine") == fine
        assert helping_.look("some_looks:prints") == [Finding("prints", "ok", "")]


def test_a_look_that_hangs_is_ended(helper: Callable[[float], Helper]) -> None:
    with helper(2) as helping_:
        assert helping_.look("some_looks:fine")
        began = time.monotonic()
        with pytest.raises(Failed, match="did not end within 2 s"):
            helping_.look("some_looks:hangs")
        assert time.monotonic() - began < 30
        assert helping_.look("some_looks:fine")
    with helper(0.5) as helping_, pytest.raises(Failed, match="did not end within 1 s"):
        helping_.look("some_looks:hangs", times=2)


def test_what_imports_or_compiles_has_longer() -> None:
    times: dict[str, int] = {}

    class Noting(Helper):
        def look(self, order: str, times_: int = 1) -> list[Finding]:
            times[order.rpartition(":")[2]] = times_
            return []

    for looks in (ON_DEVICE, ON_FILES):
        checkup._taken(looks, Noting(DEMO, 1))
    slow = {name for name, count in times.items() if count > 1}
    assert slow == {"torch_itself", "device", "quantisation", "triton"}
    assert checkup.LIMIT_SECONDS * checkup.SLOW_TIMES >= 120


def test_a_doctor_that_is_left_waits_for_nothing(
    helper: Callable[[float], Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = (Away("a", "some_looks:hangs"), Away("b", "some_looks:hangs"))
    monkeypatch.setattr(checkup, "ON_DEVICE", hanging)
    monkeypatch.setattr(checkup, "ON_FILES", hanging)
    monkeypatch.setattr(checkup, "Helper", lambda *_: helper(100))
    for already_hanging_seconds in (0.0, 1.0):
        began = time.monotonic()
        findings = examine(DEMO)
        next(findings)
        time.sleep(already_hanging_seconds)
        findings.close()
        assert time.monotonic() - began < 50


def test_what_cannot_be_looked_at_is_told_once() -> None:
    class Broken(Helper):
        def look(self, order: str, times: int = 1) -> list[Finding]:
            if order.endswith("torch_itself"):
                return [Finding("torch", "problem", "cannot be imported", True)]
            if order.endswith(":model"):
                raise Failed("crashed (SIGSEGV)")
            raise AssertionError(order)

    found = checkup._taken(ON_DEVICE, Broken(DEMO, 1))
    assert [each.state for each in found] == ["problem", *["warning"] * 5, "problem"]
    assert found[1].text == "not looked at, because of torch"
    assert exit_code(found) == 5


def test_exit_codes() -> None:
    fine, strange = Finding("a", "ok", ""), Finding("a", "warning", "", True)
    wrong, small = Finding("a", "problem", ""), Finding("a", "problem", "", True)
    assert [exit_code(all_) for all_ in ([fine, strange], [wrong, fine], [wrong, small])] == [
        0,
        2,
        5,
    ]


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(packages.python).state == "ok"
    assert one(packages.packages).text.endswith("all in the tested ranges")
    wanted = [
        "torch>=2.6",
        "transformers<5.24,>=5.17",
        "av>=18",
        "decord>=0.6",
        'win>=1; sys_platform == "no such"',
        'ray>=2.40; extra == "ray"',
        'pyarrow>=15; extra == "parquet"',
        'mypy>=99; extra == "dev"',
    ]
    here = {"torch": "2.6", "transformers": "4.57.1", "ray": "1.0", "mypy": "1"}
    monkeypatch.setattr(packages, "metadata", lambda _: SimpleNamespace(get_all=lambda _: wanted))
    monkeypatch.setattr(packages, "installed", here.get)
    found = {each.name: each for each in packages.packages(DEMO)}
    assert found.keys() == {"transformers", "av", "ray"}
    assert found["transformers"].state == found["ray"].state == "warning"
    assert found["transformers"].text == (
        "4.57.1; tested with >=5.17, <5.24: pip install 'transformers<5.24,>=5.17'"
    )
    assert (found["av"].state, found["av"].text) == (
        "problem",
        "not installed: pip install 'av>=18'",
    )


@pytest.mark.parametrize(
    ("here", "state"), [("3.9.1", "problem"), ("3.11.0", "ok"), ("3.99.0", "warning")]
)
def test_python_itself(monkeypatch: pytest.MonkeyPatch, here: str, state: str) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: here)
    assert one(packages.python).state == state


def test_a_copy_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "metadata", absent)
    assert one(packages.python).state == "ok"
    assert one(packages.packages).state == "warning"


def test_packages_of_extras_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed", lambda _: None)
    ray, pyarrow = packages.extras(DEMO)
    assert (ray.state, pyarrow.state) == ("ok", "ok")
    assert ray.text == "not installed; only for batch --cluster: pip install 'tokenreduce[ray]'"


def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(device.torch_itself).text.startswith(torch.__version__)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = one(device.torch_itself)
    assert (found.state, found.device) == ("problem", True)
    assert "cannot be imported (" in found.text
    assert "reinstall" in found.text


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A card as torch and the driver would tell of it."""
    told = SimpleNamespace(capability=(8, 9), free=9 * GIB, error=None)

    def start() -> None:
        if told.error:
            raise RuntimeError(told.error)

    for name, answer in {
        "is_available": lambda: told.error is None,
        "device_count": lambda: 2,
        "init": start,
        "get_device_capability": lambda *_: told.capability,
        "get_arch_list": lambda: ["sm_75", "sm_86"],
        "get_device_name": lambda *_: "GeForce 1",
        "get_device_properties": lambda *_: SimpleNamespace(uuid="7"),
        "mem_get_info": lambda *_: (told.free, 12 * GIB),
        "memory_reserved": lambda *_: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(nvidia, "usable_card", lambda _: True)
    monkeypatch.setattr(nvidia, "driver_version", lambda: "550.54")
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: "12.4")
    return told


CUDA = Asked("demo", device="auto")


def test_a_card(card: SimpleNamespace) -> None:
    found = one(device.device, CUDA)
    assert found == Finding(
        "device",
        "ok",
        "cuda, GeForce 1, compute capability 8.9, driver 550.54 for CUDA up to 12.4; "
        "1 more beside it",
    )
    assert one(device.half_precision, CUDA).state == "ok"
    card.capability = (7, 5)
    assert one(device.half_precision, CUDA).state == "warning"
    card.capability = (5, 2)
    found = one(device.device, CUDA)
    assert (found.state, found.device) == ("problem", True)
    assert "compute capability 5.2" in found.text
    assert "doctor" not in found.text


def test_a_card_that_does_not_start(card: SimpleNamespace) -> None:
    card.error = "The NVIDIA driver on your system is too old (found version 11040). Please"
    found = one(device.device, CUDA)
    assert found.state == "warning"  # the CPU answers
    assert "serves CUDA up to 11.4" in found.text
    assert "doctor" not in found.text
    found = one(device.device, replace(CUDA, device="cuda"))
    assert (found.state, found.device) == ("problem", True)
    assert "serves CUDA up to 11.4" in found.text
    assert "doctor" not in found.text


def test_memory_of_a_card_and_who_uses_it(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = (nvidia.User(5, "/usr/bin/game", 3 * GIB), nvidia.User(6, "x", None))
    monkeypatch.setattr(nvidia, "users", lambda uuid: others if uuid == "GPU-7" else None)
    found = one(device.memory, CUDA)
    assert found.state == "ok"
    assert found.text.startswith(
        "9.0 GiB of 12.0 GiB free, used by game (pid 5, 3.0 GiB), x (pid 6); the weights of demo"
    )
    card.free = 1000
    found = one(device.memory, CUDA)
    assert (found.state, found.device) == ("problem", True)
    assert "end what else uses the card" in found.text
    assert "doctor" not in found.text


def test_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the weights of demo take" in one(device.memory).text
    monkeypatch.setattr("tokenreduce.memory.host_free_bytes", lambda: 1000)
    assert one(device.memory).state == "warning"
    assert "is not here to be sized" in one(device.memory, replace(DEMO, model="./nowhere")).text
    seven = one(device.memory, replace(DEMO, model="llava-video-7b"))
    assert seven.state == "warning"
    assert "the weights of llava-video-7b take 29." in seven.text


@pytest.mark.parametrize(
    ("asked", "state", "fatal"),
    [("auto", "warning", False), ("none", "warning", False), ("nf4", "problem", True)],
)
def test_a_bitsandbytes_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch, asked: str, state: str, fatal: bool
) -> None:
    quantised = replace(DEMO, quantize=asked)
    assert one(device.quantisation, quantised).state == "ok"
    monkeypatch.setattr("tokenreduce.models.kernels.fault", lambda *_: "no kernel")
    found = one(device.quantisation, quantised)
    assert (found.state, found.device) == (state, fatal)
    assert "nf4 does not work on cpu (no kernel)" in found.text
    monkeypatch.setattr(device, "installed", lambda _: None)
    assert one(device.quantisation, quantised).state == state


def test_triton_is_for_cuda(card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(device.triton).text == "not needed on cpu"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert one(device.triton, CUDA).state == "warning"
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    for wrong, state in (("", "ok"), ("the scoring of long prompts", "warning")):
        monkeypatch.setattr(device, "_wrong_kernels", lambda _, wrong=wrong: wrong)
        assert one(device.triton, CUDA).state == state

    def refuse(_: object) -> str:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(device, "_wrong_kernels", refuse)
    found = one(device.triton, CUDA)
    assert found.state == "warning"
    assert "no C compiler" in found.text


def test_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    found = one(decoding.pyav)
    assert found.state == "ok"
    assert found.text.endswith(": H.264, HEVC, VP9, AV1")
    assert one(decoding.decord).state == "ok"
    assert one(decoding.a_clip).text == "a clip (libx264) was decoded in a process of its own"
    monkeypatch.setattr(decoding, "_decodes", lambda codec: codec != "hevc")
    found = one(decoding.pyav)
    assert (found.state, "no decoder of HEVC: install" in found.text) == ("warning", True)
    monkeypatch.setitem(sys.modules, "av", None)
    assert one(decoding.pyav).state == "problem"
    monkeypatch.setattr(decoding, "installed", lambda _: "0.6.0")
    monkeypatch.setitem(sys.modules, "decord", None)
    assert one(decoding.decord).state == "warning"
    monkeypatch.setattr(decoding, "installed", lambda _: None)
    assert one(decoding.decord).state == "ok"


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not" / "made"
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(folder))
    found = one(places.cache)
    assert found.text.startswith(f"{folder}: 0 MiB kept, ")
    assert not folder.parent.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    assert "cache prune" in one(places.cache).text
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path / "file" / "below"))
    found = one(places.cache)
    assert (found.state, "TOKENREDUCE_CACHE names another" in found.text) == ("warning", True)


def test_the_models_files(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one(places.model).text.endswith("whole, every tensor as its configuration says")
    here = replace(DEMO, model=str(checkpoint_folder))
    config = json.loads((checkpoint_folder / "config.json").read_text())
    config["intermediate_size"] *= 2
    (checkpoint_folder / "config.json").write_text(json.dumps(config))
    found = one(places.model, here)
    assert (found.state, found.device) == ("problem", False)
    assert "as config.json says" in found.text
    (checkpoint_folder / "model.safetensors").unlink()
    assert one(places.model, here).state == "problem"
    assert one(places.model, replace(DEMO, model="no-such-model")).state == "problem"


@pytest.fixture
def checkpoint_folder(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint, to be broken."""
    inside = Path(tokenreduce.demo.__file__).parent / "checkpoint"
    return Path(shutil.copytree(inside, tmp_path / "copy"))


def test_a_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("tokenreduce.models.locate.cached", lambda _: None)
    seven = Asked("llava-video-7b")
    found = one(places.model, seven)
    assert found.state == "warning"
    assert "not on this machine (about 16 GB): run `tokenreduce models pull" in found.text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5e9))
    assert f"once {tmp_path} has room: 5.0 GB are free" in one(places.model, seven).text
    assert one(places.model, replace(seven, offline=True)).state == "problem"
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("tokenreduce.models.locate.cached", lambda _: tmp_path)
    assert "incomplete, 2 files are missing" in one(places.model, seven).text


def test_a_copy_in_nf4_is_told(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(DEMO, model=str(checkpoint_folder))
    monkeypatch.setattr("tokenreduce.models.locate.saved_folder", lambda _: tmp_path)
    assert f"whole, with a copy in NF4 in {tmp_path}, every" in one(places.model, here).text
    monkeypatch.setattr("tokenreduce.models.locate.saved_folder", lambda _: checkpoint_folder)
    assert "whole, in NF4 alone, every" in one(places.model, here).text


def test_errors_are_one_line() -> None:
    assert of_error("a", OSError("\n  first \nsecond")).text == "OSError: first"
    assert of_error("a", ValueError()).text == "ValueError"
