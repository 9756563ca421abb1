"""Records what a function does on a CUDA device and does it again without Python; knows not what it
does. The one place that captures CUDA graphs.

A 7B's step is about 1,300 small kernels: launched one by one, the card waits for the host.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenreduce.memory import device_wide

Step = Callable[[], Tensor]
"""Reads and writes tensors that stay where they are, and gives back a new one."""

_POOLS = 16
"""Recordings until torch's cache is emptied, and with it the memory of graphs that are gone: torch
keeps at least 2 MiB for each, 22 where one tensor has over a MiB, and gives it to no other. Two are
made in an answer of the usual length. An estimate, from the sizes of torch's segments. On the host,
where torch has pools there as well, each is 48 KB of empty lists."""


class Recorder(Protocol):
    """Runs a step, or records it."""

    def run(self, step: Step) -> Tensor:
        """The step's result, computed now: what recording needs to have happened once before."""
        ...

    def record(self, step: Step) -> Step:
        """What does it again, always into the same result. Nothing has been computed yet.

        Raises whatever stands in the way; the device is then as before.
        """
        ...


@dataclass(frozen=True)
class Side:
    """What a device's recordings share: for each stream on which it multiplies, torch keeps a
    workspace for cuBLAS for good, so there is one stream for the process.

    recordings  their numbers
    failed      graphs whose capture never came to its end: torch's allocator of pinned memory goes
                on asking them which streams they record, so they have to stay
    """

    stream: torch.cuda.Stream
    recordings: Iterator[int] = field(default_factory=count)
    failed: list[torch.cuda.CUDAGraph] = field(default_factory=list)


@dataclass(frozen=True)
class CudaGraphs:
    """A recorder for one CUDA device. Each graph has memory of its own: torch refuses a pool that
    once was without a graph, and graphs that live side by side would write over each other.

    While one thread computes on the side stream or records, no other does, waits for the device or
    empties torch's cache. Others may launch, copy and pin memory: only the thread that records has
    to keep to the step.
    """

    device: torch.device
    side: Side

    @classmethod
    def on(cls, device: torch.device) -> CudaGraphs:
        index = torch.cuda.current_device() if device.index is None else device.index
        with device_wide():
            return cls(torch.device("cuda", index), _side(index))

    def run(self, step: Step) -> Tensor:
        stream = self.side.stream
        with device_wide(), torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            stream.wait_stream(current)
            try:
                with torch.cuda.stream(stream):
                    out = step()
            finally:  # a step that fails has queued work on tensors that others are given next
                current.wait_stream(stream)
            out.record_stream(current)
        return out

    def record(self, step: Step) -> Step:
        with device_wide(), torch.cuda.device(self.device), _uncollected():
            # What went wrong before is heard of here, not as a graph that cannot be recorded.
            torch.cuda.current_stream().synchronize()
            if next(self.side.recordings) % _POOLS == _POOLS - 1:
                _give_back()
            graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            # Not torch.cuda.graph: that empties torch's caches each time, which the next prefill
            # would have to fill again, and leaves what a failed capture leaves.
            with torch.cuda.stream(self.side.stream), _as_before(graph, pool, self.side.failed):
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                out = step()
                graph.capture_end()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@cache
def _side(index: int) -> Side:
    """Of CUDA device `index`; asked for under `device_wide`, so that there is but one."""
    return Side(torch.cuda.Stream(torch.device("cuda", index)))


def _give_back() -> None:
    """Empties torch's cache, and that of the host's memory, which the former leaves as it is."""
    torch.cuda.empty_cache()
    host = getattr(torch._C, "_host_emptyCache", None)  # not in every version
    if host is not None:
        host()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Python collects no garbage: among it may be graphs, events and tensors of the device, and
    what their ends ask of the driver may be refused while it records."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _as_before(
    graph: torch.cuda.CUDAGraph, pool: Any, failed: list[torch.cuda.CUDAGraph]
) -> Iterator[None]:
    """A capture that fails goes on, leaves torch's allocator giving `pool` to it, so that the cache
    can never be emptied again, and the generator of random numbers in a state that refuses every
    draw: all three are put back. It is the step's own error that is raised."""
    index = torch.cuda.current_device()
    generator = torch.cuda.default_generators[index]
    spare = generator.clone_state()
    try:
        yield
    except BaseException:
        with suppress(Exception):  # it says again that the capture is broken, or that it is over
            graph.capture_end()
        with suppress(Exception), ExitStack() as last:  # each, whatever the others raise
            last.callback(generator.graphsafe_set_state, spare)
            last.callback(graph.reset)
            if not _ended(graph):
                failed.append(graph)
                _forsake(index, pool)
        raise


def _ended(graph: torch.cuda.CUDAGraph) -> bool:
    """Whether its capture came to its end, so that it gives back its pool when it goes; twice would
    end the process. Torch tells the pool of such a graph alone."""
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


def _forsake(index: int, pool: Any) -> None:
    """What ends a capture for the allocator of device `index`: in aten/src/ATen/cuda/CUDAGraph.cpp
    capture_end gets there only after the driver's own end, and reset() only after capture_end.

    Either may have been done already, or never have become due; then it says so and nothing else.
    """
    new, old = "_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"  # before torch 2.8
    end = getattr(torch._C, new if hasattr(torch._C, new) else old)
    with suppress(RuntimeError):
        end(index, pool)
    with suppress(RuntimeError):
        torch._C._cuda_releasePool(index, pool)
