"""What is kept of a prompt that was read, so that a further question about the same video is read
from there. Knows no family of models, no method and no tokenizer.

A position's hidden states, keys and values depend on what is before it, not on what comes after.
So those of system text, visual tokens and time sentence are the same for every question, up to and
including the first layer after which something is chosen. The choice itself is made afresh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # importing transformers takes longer than all else here
    from transformers import DynamicCache

    from tokenreduce.engine.attention import Observe

GIB = 1 << 30
_SMALL_MASK = 1 << 22
"""Entries of an attention mask that are no burden, 4 MiB."""


@dataclass(frozen=True)
class Fork:
    """The first layer after which something is chosen, as s positions went through it.

    layer     its index
    entering  (1, s, d)  its input: the features that methods see
    leaving   (1, s, d)  its output before anything left
    queries   (1, h, s, d_head)  after RoPE
    """

    layer: int
    entering: Tensor
    leaving: Tensor
    queries: Tensor

    def first(self, positions: int) -> Fork:
        """Of the first `positions` alone; no copy."""
        return Fork(
            self.layer,
            self.entering[:, :positions],
            self.leaving[:, :positions],
            self.queries[:, :, :positions],
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.entering, self.leaving, self.queries


@dataclass(frozen=True)
class Shown:
    """Shows a layer's attention to `observe` with the queries of earlier positions before its own;
    keys are all there, as they come from the cache.

    keeps: all of the queries end up in `queries`, else they live no longer than the layer's own.
    """

    observe: Observe
    before: Tensor | None
    keeps: bool
    queries: list[Tensor] = field(default_factory=list)

    def __call__(self, q: Tensor, k: Tensor, scale: float) -> None:
        if self.before is not None:
            q = joined(self.before, q, dim=2)
        if self.keeps:
            self.queries.append(q)
        self.observe(q, k, scale)


@dataclass(frozen=True)
class Stem:
    """What was computed for the s positions of a prompt before anything was chosen. Empty at first:
    given to a generation, it comes back filled, and the next one of the same model reads on.

    limit_bytes  a prompt that would take more is not kept
    embeds       (1, s, d), what entered layer 0: by it a further prompt is known to begin alike
    keys, values (1, h_kv, s, d_head) of the layers 0 .. fork.layer, or of all without a fork
    fork         None where nothing was chosen

    Nothing here is ever written to: caches made from it are copies.
    """

    limit_bytes: int = GIB
    embeds: Tensor | None = field(default=None, repr=False)
    keys: tuple[Tensor, ...] = field(default=(), repr=False)
    values: tuple[Tensor, ...] = field(default=(), repr=False)
    fork: Fork | None = field(default=None, repr=False)

    @property
    def positions(self) -> int:
        return 0 if self.embeds is None else self.embeds.shape[1]

    @property
    def layers(self) -> int:
        """How many layers need not be computed again."""
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this keeps from being freed, what is shared counted once."""
        held = () if self.embeds is None else (self.embeds,)
        return bytes_of(
            (*held, *self.keys, *self.values, *(self.fork.tensors if self.fork else ()))
        )

    def shared(self, embeds: Tensor, first: int | None) -> int:
        """How many of the positions of a prompt `embeds` (1, l, d) are read already, 0 if too few
        to be worth it.

        first: the layer after which something will first be chosen, None for nowhere. The last
        position is always to be read, for the answer comes from there. Equal bits make positions
        equal, so it does not matter where a tokenizer cuts between video and question.
        """
        mine, most = self.embeds, embeds.shape[1] - 1
        if mine is None or mine.dtype != embeds.dtype or mine.device != embeds.device:
            return 0
        if mine.shape[2] != embeds.shape[2]:
            return 0
        reach = len(self.keys) if self.fork is None else self.fork.layer
        if (self.fork is None and first is not None) or (first is not None and first < reach):
            return 0  # chosen earlier than anything was kept for
        common = min(mine.shape[1], most)
        differs = (mine[0, :common] != embeds[0, :common]).any(dim=1).nonzero()
        same = common if differs.shape[0] == 0 else int(differs[0])
        # The rest attends with a mask, of unread x length: not where it is long and most of it new.
        length = embeds.shape[1]
        return same if 2 * same >= length or (length - same) * length <= _SMALL_MASK else 0

    def fill(self, cache: DynamicCache, positions: int) -> None:
        """Puts keys and values of the first `positions` into an empty cache."""
        for index, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(keys[:, :, :positions], values[:, :, :positions], index)

    def grown(
        self, embeds: Tensor, cache: DynamicCache, fork: Fork | None, *, chosen: bool
    ) -> Stem:
        """Of the prompt that has just been read into `cache`; empty if that is too large.

        fork: None where nothing was chosen, or where what was `chosen` is too large to be kept.
        """
        if chosen and fork is None:
            return Stem(self.limit_bytes)
        held = cache.layers if fork is None else cache.layers[: fork.layer + 1]
        keys, values = _parts(held, "keys"), _parts(held, "values")
        stem = Stem(self.limit_bytes, embeds, keys, values, fork)
        return stem if stem.nbytes <= self.limit_bytes else Stem(self.limit_bytes)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind `tensors`, each piece of it once."""
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage() for part in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def joined(before: Tensor, after: Tensor, dim: int = 1) -> Tensor:
    """Earlier positions and later ones."""
    return torch.cat([before, after], dim=dim)


def _parts(layers: Iterable[object], name: str) -> tuple[Tensor, ...]:
    found = [getattr(layer, name) for layer in layers]
    return tuple(part for part in found if isinstance(part, Tensor))
