"""What goes into the engine and what comes out; knows no family of models and no video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.cost import AFRESH, Reused
from tokenreduce.errors import SettingError
from tokenreduce.paradigm import Method
from tokenreduce.result import Decoding, FinishReason
from tokenreduce.schedule import Schedule
from tokenreduce.tokens import Tokens

if TYPE_CHECKING:  # importing transformers takes longer than all else here
    from transformers import DynamicCache

    from tokenreduce.engine.stem import Stem
    from tokenreduce.engine.stepper import Stepper

Way = Literal["auto", "stock", "slots"]
"""What may be asked for: "slots" are replayed by graphs on CUDA; "auto" is those there, else
stock."""


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
    tokens  sizes and places of the visual tokens, one row, for methods inside the LLM; features
            are those of the layer a method acts at, so these may have none
    grid    of the raw sequence that the places count along, newlines included
    """

    embeds: Tensor
    visual: Tensor
    tokens: Tokens
    grid: Layout

    @property
    def text_count(self) -> int:
        return self.embeds.shape[1] - self.visual.shape[0]


@dataclass(frozen=True)
class Prefilled:
    """A prompt that has been read.

    logits     (1, 1, vocab) of the first token to come
    cache      keys and values, of another length in each layer
    per_layer  visual tokens each layer attended to
    reused     what of it a stem had
    stem       for a further question, where the plan has one
    """

    logits: Tensor
    cache: DynamicCache
    per_layer: tuple[int, ...]
    reused: Reused = AFRESH
    stem: Stem | None = None


def _ignore(read: Prefilled) -> None:
    """Needs to know nothing about a prompt that has been read."""


@dataclass(frozen=True)
class Plan:
    """What a hosted model does with the prompt it is called with, while its cache is empty.

    seed  of methods that draw
    done  called once the prompt has been read
    stem  of earlier questions, to be read on from and kept; None keeps nothing
    steps  runs each further token, and empties the cache that was called with; None: stock
    """

    prompt: Prompt
    prunes: Sequence[Prune] = ()
    seed: int = 0
    done: Callable[[Prefilled], None] = _ignore
    stem: Stem | None = None
    steps: Stepper | None = None


def never() -> bool:
    """Stops nothing."""
    return False


@dataclass(frozen=True)
class Sampling:
    """How the answer is drawn.

    max_new_tokens  at least 1, the ending token counted
    temperature     0 is greedy; above it, the whole distribution is drawn from
    seed            of the draws, in [0, 2^32); the same seed gives the same answer

    Raises SettingError on any other value.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingError(f"max new tokens {self.max_new_tokens}: give at least 1")
        if not (isfinite(self.temperature) and self.temperature >= 0):
            raise SettingError(
                f"temperature {self.temperature}: give 0 (greedy) or a finite number above it"
            )
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed {self.seed}: give a whole number from 0 to 2^32 - 1")


@dataclass(frozen=True)
class Generation:
    """What came out and what it took.

    finish_reason    "interrupted" where it was stopped from outside before its end
    tokens           generated, the ending one counted
    per_layer        visual tokens each layer attended to in the prefill
    prefill_seconds  from the call until the first logits
    seconds          after that, until the last token
    kv_cache_bytes   of the cache right after the prefill
    reused           what of the prompt a stem had
    stem             for a further question; None where none was given
    decoding         how the tokens after the first were computed
    """

    text: str
    finish_reason: FinishReason
    tokens: int
    per_layer: tuple[int, ...]
    prefill_seconds: float
    seconds: float
    kv_cache_bytes: int
    reused: Reused = AFRESH
    stem: Stem | None = None
    decoding: Decoding = field(default_factory=Decoding)
