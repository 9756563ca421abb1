"""A model whose vision tower takes fewer frames at once than it usually would, to need less memory.

Everything else is the model's own. Knows no family of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.models.base import (
    Generation,
    Prompt,
    Prune,
    Sampling,
    Stem,
    VideoModel,
    never,
)
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.vision import Within, batch_of, joined
from tokenreduce.seen import Evidence, Need
from tokenreduce.tokens import Tokens


@dataclass(frozen=True)
class InBatches:
    """most: frames that go through the tower together, at least 1. Features differ from those of
    larger batches by float noise."""

    model: VideoModel
    most: int

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def quantize(self) -> str:
        return self.model.quantize

    def encode(self, frames: Tensor) -> Tensor:
        return self.look(frames, frozenset())[0]

    def look(self, frames: Tensor, needs: frozenset[Need]) -> tuple[Tensor, Evidence]:
        parts = [self.model.look(part, needs) for part in frames.split(self.most)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part[0] for part in parts]), Evidence.cat([part[1] for part in parts])

    def look_within(
        self, frames: Tensor, within: Within, needs: frozenset[Need]
    ) -> tuple[Tokens, Evidence]:
        numbers = within.frames or tuple(range(frames.shape[0]))
        done = []
        for start in range(0, frames.shape[0], self.most):
            stop = start + self.most
            own = replace(within, frames=numbers[start:stop])
            done.append(self.model.look_within(frames[start:stop], own, needs))
        return joined([part[0] for part in done]), Evidence.cat([part[1] for part in done])

    def unpooled(self) -> VideoModel:
        return replace(self, model=self.model.unpooled())

    def newline(self) -> Tensor | None:
        return self.model.newline()

    def text_tokens(self, question: str, time_text: str | None) -> int:
        return self.model.text_tokens(question, time_text)

    def unknown_words(self, question: str) -> tuple[str, ...]:
        return self.model.unknown_words(question)

    def prompt(self, question: str, time_text: str | None, visual: Tokens, grid: Layout) -> Prompt:
        return self.model.prompt(question, time_text, visual, grid)

    def generate(
        self,
        prompt: Prompt,
        prunes: Sequence[Prune],
        sampling: Sampling,
        on_text: Callable[[str], None],
        on_prefill: Callable[[float], None],
        *,
        stem: Stem | None = None,
        stop: Callable[[], bool] = never,
    ) -> Generation:
        return self.model.generate(
            prompt, prunes, sampling, on_text, on_prefill, stem=stem, stop=stop
        )


def in_batches(model: VideoModel, most: int | None) -> VideoModel:
    """The model itself where it takes no more frames at once than `most`, or that is None."""
    if most is None or most >= batch_size(model):
        return model
    return InBatches(model, most)


def batch_size(model: VideoModel) -> int:
    """Frames that go through its tower together."""
    return model.most if isinstance(model, InBatches) else batch_of(model.device)
