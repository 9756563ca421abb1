"""Frames through the vision tower one chunk behind: the device encodes one while the next is read.

On an accelerator a call only starts work. So a chunk's features are waited for, and reduced, when
the next chunk is there, and not before. Knows no video and no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from tokenreduce import memory
from tokenreduce.clock import Clock
from tokenreduce.models.base import VideoModel
from tokenreduce.seen import Evidence, Need

Reduce = Callable[[Tensor, Evidence, Sequence[int]], None]
"""features (f, rows * columns, d), the evidence of them, and for how many sampled frames each of
the f stands."""


@dataclass
class Behind:
    """Chunks in order of time, each through `model` and then to `reduce`; `finish` after the last.

    The clock is in the part "encode" whenever one of these is called; reducing counts as "reduce".
    """

    model: VideoModel
    needs: frozenset[Need]
    clock: Clock
    reduce: Reduce
    _under_way: list[tuple[Tensor, Evidence, Sequence[int]]] = field(default_factory=list)

    def add(self, pixels: Tensor, stands: Sequence[int]) -> None:
        """pixels: uint8 (f, S, S, 3) on the CPU; page-locked ones are copied while this goes on."""
        self.finish()
        features, evidence = self.model.look(pixels, self.needs)
        self._under_way.append((features, evidence, stands))

    def finish(self) -> None:
        """Waits for the chunk under way, if there is one, and reduces it."""
        if not self._under_way:
            return
        memory.synchronise(self.model.device)
        with self.clock.within("reduce"):
            self.reduce(*self._under_way.pop())
            memory.synchronise(self.model.device)
