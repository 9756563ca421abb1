"""What the pipeline asks of a model: one Protocol, implemented in one file per family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenreduce.models.spec import ModelSpec
from tokenreduce.paradigm import Method
from tokenreduce.result import FinishReason
from tokenreduce.schedule import Schedule
from tokenreduce.tokens import Tokens


@dataclass(frozen=True)
class Prune:
    """One reduction inside the LLM: a method that acts at the site "llm", and when how many."""

    method: Method
    schedule: Schedule


@dataclass(frozen=True)
class Prompt:
    """A sequence for the LLM with its visual tokens in place.

    embeds  (1, l, d)  in the model's dtype on its device
    visual  (n,) int64, ascending positions of the visual tokens (newlines included) among the l;
            several chunks are allowed
    tokens  the visual tokens as they were reduced, of one row, for methods inside the LLM that
            look at their places
    """

    embeds: Tensor
    visual: Tensor
    tokens: Tokens

    @property
    def text_count(self) -> int:
        return self.embeds.shape[1] - self.visual.shape[0]


@dataclass(frozen=True)
class Sampling:
    """How the answer is drawn. temperature 0 is greedy."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """What came out and what it took.

    per_layer        visual tokens each layer attended to in the prefill
    prefill_seconds  from the call until the first logits
    seconds          after that, until the last token
    kv_cache_bytes   of the cache right after the prefill
    """

    text: str
    finish_reason: FinishReason
    tokens: int
    per_layer: tuple[int, ...]
    prefill_seconds: float
    seconds: float
    kv_cache_bytes: int


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

    def prompt(self, question: str, time_text: str | None, visual: Tokens) -> Prompt:
        """The chat prompt with `visual` (1, n, d) spliced in where the frames belong."""
        ...

    def generate(
        self,
        prompt: Prompt,
        prunes: Sequence[Prune],
        sampling: Sampling,
        on_text: Callable[[str], None],
        on_prefill: Callable[[float], None],
    ) -> Generation:
        """Prefill with `prunes`, then decode. on_prefill(seconds) is called once the first logits
        exist, on_text with each piece of the answer; a KeyboardInterrupt raised while it runs
        stops the generation and propagates."""
        ...
