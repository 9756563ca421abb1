"""benchmarks/loading.py on a checkpoint of a few megabytes: it runs, in this process."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
linux_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads, level = torch.get_num_threads(), logging.getLogger("bitsandbytes").level
    torch.set_num_threads(1)
    yield importlib.import_module("benchmarks.loading")
    torch.set_num_threads(threads)
    logging.getLogger("bitsandbytes").setLevel(level)


@linux_only
def test_every_way_is_measured(loading: ModuleType, tmp_path: Path) -> None:
    folder = loading.made(tmp_path / "checkpoint", 128, 2, 500_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    quantise = {"nf4": "nf4", "none": "none", "saved": "nf4"}
    for way in loading.WAYS:
        kept = loading.work(way, tmp_path, folder)
        if way != "save":
            assert (kept.quantize, kept.spec.text.layers) == (quantise[way], 2)
    (tmp_path / "again").mkdir()
    found = loading.measured("none", tmp_path)
    assert found["seconds"] > 0
    assert found["resident_bytes"] <= found["anonymous_bytes"] + found["file_bytes"] + (1 << 20)


@linux_only
def test_memory_that_comes_and_goes_is_seen(loading: ModuleType) -> None:
    before = loading.memory_now()["anonymous"]
    with loading.Watched() as peaks:
        block = torch.ones(16 << 20)
        while peaks.most["anonymous"] - before < block.nbytes // 2:
            pass
        del block
    assert peaks.most["anonymous"] - before >= 32 << 20


def test_what_it_says_of_a_machine_that_does_not_tell(
    loading: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loading, "_STATUS", tmp_path / "none")
    with pytest.raises(RuntimeError, match="does not tell"):
        loading.memory_now()
