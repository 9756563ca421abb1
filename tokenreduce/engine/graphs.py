"""Records what a function does on a CUDA device and does it again without Python; knows not what it
does. The one place that captures CUDA graphs.

A 7B's step is about 1,300 small kernels: launched one by one, the card waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Step = Callable[[], Tensor]
"""Reads and writes tensors that stay where they are, and gives back a new one."""


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
class CudaGraphs:
    """A recorder for one CUDA device; graphs of one recorder share their memory, so only the latest
    may be replayed.

    stream  recorded on, and run on beforehand, as torch asks for
    pool    of memory that lives as long as its graphs
    """

    device: torch.device
    stream: torch.cuda.Stream
    pool: Any

    @classmethod
    def on(cls, device: torch.device) -> CudaGraphs:
        with torch.cuda.device(device):
            return cls(device, torch.cuda.Stream(device), torch.cuda.graph_pool_handle())

    def run(self, step: Step) -> Tensor:
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                out = step()
            current.wait_stream(self.stream)
            out.record_stream(current)
        return out

    def record(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        # Other threads decode video and pin memory: only this one has to keep to the step.
        recording = torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        )
        with torch.cuda.device(self.device), _as_before(), recording:
            out = step()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@contextmanager
def _as_before() -> Iterator[None]:
    """A capture that fails leaves its stream current, and the generator of random numbers in a
    state that refuses every draw: both are put back."""
    stream = torch.cuda.current_stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    spare = generator.clone_state()
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(spare)
        raise
