"""Peaks of memory against allocations of a known size."""

import gc
import mmap
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tokenreduce import memory
from tokenreduce.errors import CapacityError

CPU = torch.device("cpu")
MIB = 1 << 20


def test_the_host_peak_counts_what_was_touched_and_outlives_it() -> None:
    """Where the peak can start again it does, else the block must exceed the peak so far."""
    fresh = memory.reset_host_peak()
    before = memory.host_peak_bytes()
    # Not from malloc, which may still hold what other tests gave back.
    with mmap.mmap(-1, 64 * MIB if fresh else before + 64 * MIB) as block:
        for at in range(0, len(block), mmap.PAGESIZE):
            block[at] = 1
        peak = memory.host_peak_bytes()
    assert peak - before >= 60 * MIB
    # The kernel counts per core and adds up now and then, so the last pages may be missing.
    assert memory.host_peak_bytes() >= peak - 4 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident now")
def test_what_is_resident_now_is_at_most_the_peak() -> None:
    now = memory.host_bytes()
    assert now is not None
    assert 0 < now <= memory.host_peak_bytes()


def test_without_linux_s_account_the_kernel_s_own_peak_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exact = memory.host_peak_bytes()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "absent" / "too")
    assert memory.host_bytes() is None
    assert not memory.reset_host_peak()
    # Never reset, so at least the exact mark; units off by 1024 would show.
    assert exact * 0.9 <= memory.host_peak_bytes() <= 64 << 30


def test_a_cpu_has_no_device_peak() -> None:
    memory.reset_device_peak(CPU)
    memory.synchronise(CPU)
    assert memory.device_peak_bytes(CPU) is None


@dataclass
class Waited:
    """A stream; what was asked for is in `of`."""

    of: list[str]

    def synchronize(self) -> None:
        self.of.append("stream")


def test_cuda_is_waited_for_by_stream_and_never_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for the device breaks what another thread records."""
    asked: list[str] = []
    cuda = torch.device("cuda", 1)

    def current(device: torch.device) -> Waited:
        assert device == cuda
        return Waited(asked)

    monkeypatch.setattr(torch.cuda, "current_stream", current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: asked.append("device"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("cache"))
    memory.synchronise(cuda)
    memory.free_device(cuda)
    assert asked == ["stream", "cache"]


@pytest.mark.parametrize("touch", [memory.synchronise, memory.free_device])
def test_a_device_is_touched_by_one_thread_at_a_time(
    monkeypatch: pytest.MonkeyPatch, touch: Callable[[torch.device], None]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Waited(asked))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("cache"))
    with ThreadPoolExecutor(1) as pool:
        with memory.device_wide():
            done = pool.submit(touch, torch.device("cuda", 0))
            with pytest.raises(TimeoutError):
                done.result(0.1)
            assert not asked
        done.result(10)
    assert len(asked) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_peak_counts_a_tensor_and_can_start_again() -> None:
    device = torch.device("cuda")
    memory.reset_device_peak(device)
    before = memory.device_peak_bytes(device)
    block = torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    memory.synchronise(device)
    peak = memory.device_peak_bytes(device)
    assert before is not None
    assert peak is not None
    assert peak - before >= 64 * MIB
    del block
    memory.reset_device_peak(device)
    after = memory.device_peak_bytes(device)
    assert after is not None
    assert after < peak


def _too_much() -> None:
    torch.empty(10**16)  # the allocator's own words, not ours


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        MemoryError(),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
        ),
    ],
)
def test_running_out_of_memory_says_what_to_do(error: Exception) -> None:
    with pytest.raises(CapacityError, match="ask less"), memory.sufficient("ask less"):
        raise error


def test_the_cpus_allocator_is_understood() -> None:
    with pytest.raises(CapacityError, match="ask less"), memory.sufficient("ask less"):
        _too_much()


def test_garbage_is_collected_while_nobody_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it may end events and graphs, whose ends a driver that records may refuse."""
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gc, "collect", lambda: collected.append("now"))
    collected: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with memory.device_wide():
            done = pool.submit(memory.free_device, cuda)
            with pytest.raises(TimeoutError):
                done.result(0.1)
            assert not collected
        done.result(10)
    assert collected == ["now"]


@pytest.mark.parametrize(
    "words", ["an illegal instruction", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"]
)
def test_other_errors_are_bugs(words: str) -> None:
    with pytest.raises(RuntimeError, match=words), memory.sufficient("ask less"):
        raise RuntimeError(words)
