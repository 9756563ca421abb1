"""What the pipeline asks of a model: one Protocol, implemented in one file per family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.types import Generation, Prompt, Prune, Sampling, never
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.vision import Within
from tokenreduce.seen import Evidence, Need
from tokenreduce.tokens import Tokens

__all__ = ["Generation", "Prompt", "Prune", "Sampling", "Stem", "VideoModel", "never"]


class VideoModel(Protocol):
    """A loaded model. Every method runs without gradients on `device`."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def quantize(self) -> str:
        """ "nf4", "int8" or "none": what really was loaded."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (f, S, S, 3) on the CPU, already resized to the tower's S, to pooled features
        (f, rows * columns, d) in the LLM's width, newlines not yet in."""
        ...

    def look(self, frames: Tensor, needs: frozenset[Need]) -> tuple[Tensor, Evidence]:
        """What `encode` gives, and what the tower's last layer shows of the same pooled tokens:
        the kinds in `needs`."""
        ...

    def look_within(
        self, frames: Tensor, within: Within, needs: frozenset[Need]
    ) -> tuple[Tokens, Evidence]:
        """As `look`, with tokens leaving between the tower's layers and none pooled: x
        (f, within.keep, d), sizes and places on the frame's grid of patches, evidence of the tokens
        left."""
        ...

    def unpooled(self) -> VideoModel:
        """The same model, each patch a token: how it reads pictures that are no video frames."""
        ...

    def newline(self) -> Tensor | None:
        """(d,) the newline embedding, or None where the checkpoint has none."""
        ...

    def text_tokens(self, question: str, time_text: str | None) -> int:
        """Tokens of the whole prompt that are not visual."""
        ...

    def unknown_words(self, question: str) -> tuple[str, ...]:
        """Words of the question the model was certainly never trained on; empty if it cannot
        tell."""
        ...

    def prompt(self, question: str, time_text: str | None, visual: Tokens, grid: Layout) -> Prompt:
        """The chat prompt with `visual` (1, n, d), whose places count along `grid`, spliced in
        where the frames belong."""
        ...

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
        """Prefill with `prunes`, then decode. on_prefill(seconds) is called once the first logits
        exist, on_text with each piece of the answer; a KeyboardInterrupt raised while it runs
        stops the generation and propagates.

        stem: what this model has read for earlier questions, `Stem(limit_bytes)` before the first;
        the result has that for the next. None keeps nothing. What a prompt has in common with it
        is not computed again, and the answer is the same. stop() is asked after each token: with
        True the answer ends there, "interrupted"."""
        ...
