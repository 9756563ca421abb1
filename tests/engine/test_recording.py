"""Recording CUDA graphs without a device: who may do what meanwhile, and what a failure leaves."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tokenreduce import memory
from tokenreduce.engine import graphs, stepper
from tokenreduce.engine.graphs import CudaGraphs
from tokenreduce.engine.stepper import Stepper, chosen
from tokenreduce.engine.types import Plan, Prompt, Way

MakePrompt = Callable[..., Prompt]
CUDA = torch.device("cuda", 0)


class Pretended:
    """As much of torch.cuda as recording uses, without a device; `events` is what was asked of it.

    Its allocator keeps the account that torch's does: which pools captures allocate from and how
    often each was taken and not given back; what torch asserts is an error here.
    broken: what a capture fails at, "step", "end" (in the driver, before torch's allocator hears of
    it, as after something illegal), "begin" (in the driver) or "instantiate" (after all else).
    old: what ends allocating to a pool has the name it had before torch 2.8.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, broken: str = "", old: bool = False
    ) -> None:
        self.broken, self.events, self.current = broken, list[str](), Stream(self, "main")
        self.generator, self.streams, self.pools = Generator(), count(), count(1)
        self.underway, self.uses, self.waits = set[Any](), dict[Any, int](), 0
        monkeypatch.setattr(graphs, "_side", cache(graphs._side.__wrapped__))
        for name, value in {
            "CUDAGraph": lambda: Graph(self),
            "device": lambda _: nullcontext(),
            "Stream": lambda _: Stream(self, "side", next(self.streams)),
            "stream": self.stream,
            "current_stream": lambda *_: self.current,
            "current_device": lambda: 0,
            "default_generators": (self.generator,),
            "graph_pool_handle": lambda: (0, next(self.pools)),
            "empty_cache": self.empty_cache,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        new, before = "_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"
        for name in (new, before):
            monkeypatch.delattr(torch._C, name, raising=False)
        monkeypatch.setattr(torch._C, before if old else new, self.end, raising=False)
        monkeypatch.setattr(torch._C, "_host_emptyCache", self.empty_host, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def begin(self, pool: Any) -> None:
        if self.uses.setdefault(pool, 0) < 0 or pool in self.underway:
            raise RuntimeError("INTERNAL ASSERT FAILED: this pool is gone, or being recorded to")
        self.uses[pool] += 1
        self.underway.add(pool)

    def end(self, _: int, pool: Any) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, _: int, pool: Any) -> None:
        if self.uses.get(pool, 0) <= 0:
            raise RuntimeError("INTERNAL ASSERT FAILED: released twice")
        self.uses[pool] = self.uses[pool] - 1 or -1  # at 0 it can never be taken again

    def empty_cache(self) -> None:
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        self.events.append("cache emptied")

    def empty_host(self) -> None:
        self.events.append("host's cache emptied")

    @property
    def held(self) -> list[Any]:
        return [pool for pool, uses in self.uses.items() if uses > 0]


class Graph:
    """A CUDAGraph with torch's own order of things."""

    def __init__(self, of: Pretended) -> None:
        self.of, self.handle, self.ended, self.driver = of, (0, 0), False, "idle"

    def capture_begin(self, *, pool: Any, capture_error_mode: str) -> None:
        assert (self.of.current.name, capture_error_mode) == ("side", "thread_local")
        assert not gc.isenabled()
        self.handle = pool
        self.of.begin(pool)
        if self.of.broken == "begin":
            raise RuntimeError("CUDA error: out of memory")
        self.driver = "capturing"
        self.of.generator.capturing = True

    def capture_end(self) -> None:
        assert self.of.current.name == "side"
        before, self.driver = self.driver, "idle"
        if before == "idle" or self.of.broken == "end":
            raise RuntimeError("CUDA error: operation failed due to a previous error")
        self.of.end(0, self.handle)
        self.of.generator.capturing = False
        self.ended = True
        if self.of.broken == "instantiate":
            raise RuntimeError("CUDA error: out of memory")

    def pool(self) -> Any:
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self.handle

    def reset(self) -> None:
        if self.ended:
            self.of.release(0, self.handle)
        self.ended = False

    def replay(self) -> None:
        self.of.events.append(f"replay on {self.of.current.name}")


@dataclass
class Stream:
    of: Pretended
    name: str
    number: int = 0

    def wait_stream(self, other: Stream) -> None:
        self.of.events.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        assert not self.of.underway, "a wait in the middle of a capture"
        self.of.events.append(f"waited for {self.name}")


@dataclass
class Generator:
    capturing: bool = False

    def clone_state(self) -> bool:
        return self.capturing

    def graphsafe_set_state(self, state: bool) -> None:
        self.capturing = state


class OnDevice(Tensor):
    """Says which stream it was kept for; a CPU's tensor does not know."""

    def record_stream(self, stream: Any) -> None:
        stream.of.events.append(f"kept for {stream.name}")


def one() -> Tensor:
    return torch.ones(1)


def test_a_step_is_run_and_recorded_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Pretended(monkeypatch)
    recorder = CudaGraphs.on(CUDA)

    def step() -> Tensor:
        cuda.events.append(f"step on {cuda.current.name}")
        return torch.ones(1).as_subclass(OnDevice)

    assert recorder.run(step) == 1
    assert cuda.events == [
        "side waits for main",
        "step on side",
        "main waits for side",
        "kept for main",
    ]
    cuda.events.clear()
    replay = recorder.record(step)
    assert cuda.events == ["waited for main", "step on side"]
    first = replay()
    assert replay() is first
    assert cuda.events[2:] == ["replay on main"] * 2
    assert gc.isenabled()


def test_all_recordings_of_a_device_share_a_stream_and_none_a_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A workspace is kept for each stream for good; a pool that lost its graph cannot be taken."""
    cuda = Pretended(monkeypatch)
    unnamed = CudaGraphs.on(torch.device("cuda"))
    assert unnamed == CudaGraphs.on(CUDA)
    kept = [CudaGraphs.on(CUDA).record(one) for _ in range(5)]
    assert (next(cuda.streams), next(cuda.pools)) == (1, 6)
    assert len(kept) == len(cuda.held) == 5


def test_memory_of_graphs_that_are_gone_is_given_back_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Pretended(monkeypatch)
    for _ in range(2 * graphs._POOLS):
        CudaGraphs.on(CUDA).record(one)
    assert cuda.events.count("cache emptied") == 2
    assert cuda.events.count("host's cache emptied") == 2


def test_a_torch_without_a_cache_of_its_own_on_the_host_empties_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Pretended(monkeypatch)
    monkeypatch.delattr(torch._C, "_host_emptyCache")
    for _ in range(graphs._POOLS):
        CudaGraphs.on(CUDA).record(one)
    assert cuda.events.count("cache emptied") == 1


def test_a_step_that_fails_is_waited_for_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it queued before may still write, where the other stream's tensors come to lie."""
    cuda = Pretended(monkeypatch)

    def fails() -> Tensor:
        cuda.events.append("queued")
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        CudaGraphs.on(CUDA).run(fails)
    assert cuda.events == ["side waits for main", "queued", "main waits for side"]
    assert cuda.current.name == "main"


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("width", [8, 16])
def test_on_cuda_a_stepper_records_with_the_kernels_there_are(
    monkeypatch: pytest.MonkeyPatch, paired: Callable[..., Any], absent: bool, width: int
) -> None:
    """Everything here is on a CPU, but `chosen` is told otherwise. For heads of 8, or without
    triton, SDPA it is and nothing is said of it."""
    Pretended(monkeypatch)
    model = paired("qwen2", head_dim=width).hosted
    monkeypatch.setattr(stepper, "_devices", lambda *_: {CUDA})
    if absent:
        monkeypatch.setitem(sys.modules, "tokenreduce.engine.split_attention", None)
    ways: tuple[Way, ...] = ("auto", "slots")
    for way in ways:
        steps, because = chosen(model, way, CUDA)
        assert because == ""
        assert isinstance(steps, Stepper)
        assert isinstance(steps._recorder, CudaGraphs)
        assert (steps._attend is None) == (absent or width == 8 or find_spec("triton") is None)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("broken", ["begin", "step", "end", "instantiate"])
def test_a_failed_capture_leaves_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch, broken: str, old: bool
) -> None:
    """Stream, random numbers, garbage, and an allocator that empties its cache and records again.
    What is raised is what was wrong, not that ending the capture raised as well."""
    cuda = Pretended(monkeypatch, broken=broken, old=old)
    recorder = CudaGraphs.on(CUDA)

    def illegal() -> Tensor:
        if broken in ("step", "end"):
            raise ValueError("read a number back")
        return torch.ones(1)

    wrong = "read a number back" if broken in ("step", "end") else "out of memory"
    with pytest.raises((ValueError, RuntimeError), match=wrong):
        recorder.record(illegal)
    assert cuda.current.name == "main"
    assert not cuda.generator.capturing
    assert gc.isenabled()
    assert cuda.held == []
    torch.cuda.empty_cache()
    cuda.broken = ""
    recorder.record(one)()
    assert cuda.events[-1] == "replay on main"
    assert len(cuda.held) == 1
    # Those that never ended stay: torch's allocator of pinned memory would ask them when gone.
    assert len(recorder.side.failed) == (broken in ("begin", "end"))


def test_what_cannot_be_put_back_keeps_nothing_else_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor hides what was wrong."""
    cuda, resets = Pretended(monkeypatch, broken="end"), list[str]()
    monkeypatch.delattr(torch._C, "_cuda_endAllocateToPool")

    def reset(_: Graph) -> None:
        resets.append("tried")
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(Graph, "reset", reset)
    with pytest.raises(ZeroDivisionError):
        CudaGraphs.on(CUDA).record(lambda: one() * (1 // 0))
    assert resets == ["tried"]
    assert not cuda.generator.capturing


def test_a_step_that_cannot_be_captured_is_said_and_computed(
    monkeypatch: pytest.MonkeyPatch, qwen2: Any, make_prompt: MakePrompt
) -> None:
    Pretended(monkeypatch, broken="end")
    recorder = CudaGraphs.on(CUDA)

    def illegal() -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing\nSearch for it")

    class Spoilt:
        run = staticmethod(lambda step: step())
        record = staticmethod(lambda _: recorder.record(illegal))

    prompt, model = make_prompt(40, range(6, 33)), qwen2.hosted
    steps = Stepper(Spoilt())
    plan = Plan(prompt, steps=steps)
    cache: Any = DynamicCache(config=model.config)
    cache = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=cache).past_key_values
    for _ in range(3):
        given = {"input_ids": torch.tensor([[1]]), "plan": plan, "past_key_values": cache}
        cache = model(**given).past_key_values
    assert steps.decoding.road == "slots"
    assert steps.decoding.because == (
        "no CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    )


@pytest.mark.parametrize("wait", [memory.synchronise, memory.free_device])
def test_while_one_thread_records_no_other_waits_for_the_device(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[[torch.device], None]
) -> None:
    """Nor empties its cache: the fake device refuses both while a pool is recorded to."""
    cuda = Pretended(monkeypatch)
    recording, wanted = threading.Event(), threading.Event()

    def beside() -> None:
        recording.wait()
        wanted.set()
        wait(CUDA)

    def step() -> Tensor:
        recording.set()
        assert wanted.wait(10)
        time.sleep(0.05)  # in which the other would have waited
        cuda.events.append("recorded")
        return torch.ones(1)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(beside)
        CudaGraphs.on(CUDA).record(step)
        done.result(10)
    assert cuda.events[-2] == "recorded"
    assert cuda.events[-1] in ("waited for main", "cache emptied")
