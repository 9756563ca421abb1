"""All that a method may look at where it acts, whatever the site; knows no method and no model.

Salience, keys and attention among the visual tokens come from the attention of the layer a site
follows, or, after the encoder, from what its last layer showed, pooled as the features were. A
method asks for them by name and is the same code at every site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.tokens import Attention, Tokens, marked

T = TypeVar("T")

_MOST_AT_ONCE = 1 << 24
"""Similarities in memory at a time, 64 MiB of float32."""

Need = Literal["salience", "keys", "attention"]
"""What a method before the LLM wants to know of the encoder's last layer."""


@dataclass(frozen=True)
class Evidence:
    """What the encoder's last layer shows of its tokens, b rows of n; None where nobody asked.

    salience   (b, n) float32: attention from the class token, averaged over heads. Without one
               (SigLIP): attention received, averaged over queries and heads
    keys       (b, n, h, e) float32, of every head
    attention  (b, n, n) float32, averaged over heads; where tokens are pooled, the sum over the
               attended and the mean over the attending patches of a cell, so rows sum to 1
    has_class  salience is that of a class token
    """

    salience: Tensor | None = None
    keys: Tensor | None = None
    attention: Tensor | None = None
    has_class: bool = False

    def take(self, index: Tensor) -> Evidence:
        """Of the tokens at `index` (b, m) alone."""
        wide = index.unsqueeze(-1)
        salience, keys, attention = self.salience, self.keys, self.attention
        if salience is not None:
            salience = salience.gather(1, index)
        if keys is not None:
            every = wide.unsqueeze(-1).expand(-1, -1, *keys.shape[2:])
            keys = keys.gather(1, every)
        if attention is not None:
            rows = attention.gather(1, wide.expand(-1, -1, attention.shape[-1]))
            attention = rows.gather(2, index.unsqueeze(1).expand(-1, index.shape[1], -1))
        return Evidence(salience, keys, attention, self.has_class)

    @classmethod
    def cat(cls, parts: Sequence[Evidence]) -> Evidence:
        """Of all rows of the parts, which hold the same kinds."""

        def joined(kind: Need) -> Tensor | None:
            found = [value for part in parts if (value := getattr(part, kind)) is not None]
            return torch.cat(found) if found else None

        has_class = any(part.has_class for part in parts)
        return cls(joined("salience"), joined("keys"), joined("attention"), has_class)

    def beside(self, other: Evidence) -> Evidence:
        """Of the tokens of one row and, after them, those of the other; attention between the two
        there is none to be had."""

        def joined(one: Tensor | None, two: Tensor | None) -> Tensor | None:
            return None if one is None or two is None else torch.cat([one, two], dim=1)

        salience, keys = joined(self.salience, other.salience), joined(self.keys, other.keys)
        return Evidence(salience, keys, None, self.has_class)

    def as_one_row(self) -> Evidence:
        """Frames after each other; there is no attention between frames to be had."""
        salience = None if self.salience is None else self.salience.reshape(1, -1)
        keys = None if self.keys is None else self.keys.flatten(0, 1).unsqueeze(0)
        return Evidence(salience, keys, None, self.has_class)

    def rows(self, index: Tensor) -> Evidence:
        """Of the rows at `index` (b',) alone."""

        def chosen(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[index.to(part.device)]

        return Evidence(
            chosen(self.salience), chosen(self.keys), chosen(self.attention), self.has_class
        )


@dataclass(frozen=True)
class Seen:
    """All that a method may look at where it acts.

    tokens     the visual tokens here, Tokens of (b, n, d). Inside the LLM a choice is made while
               the layer attends: it sees the features that entered the layer, and what is then
               compressed are those that left it
    metric     (b, n, e) what similarity is measured on
    grid       of the rows before any reduction: `tokens.place` counts along it. At the site
               "frames" and inside the encoder a row is one frame and has no newlines; at "clip"
               a row is the whole video without newlines; inside the LLM it has them
    visual     (n,) int64, positions of the visual tokens among the l of `attention`, or None
    attention  of the layer this site follows, or None where there is none
    evidence   of the encoder's last layer, after the encoder
    entered    inside the LLM: gives (l, d), the embeddings with which the positions of the
               attention entered layer 0; text and visual tokens can be compared by them
    seed       of the run, for methods that draw
    depth      (layer, layers): which layer of how many this site follows; (0, 1) where none
    rows       (b,) int64, before the LLM: tells each row from all others of the video, whatever
               batch it comes in: the number of its frame. None where there is one row, or no number
    """

    tokens: Tokens
    metric: Tensor
    grid: Layout
    visual: Tensor | None = None
    attention: Attention | None = None
    evidence: Evidence | None = None
    entered: Callable[[], Tensor] | None = None
    seed: int = 0
    depth: tuple[int, int] = (0, 1)
    rows: Tensor | None = None
    _kept: dict[str, Any] = field(init=False, default_factory=dict, compare=False, repr=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call under this name: a method's filter and
        correlation see the same tokens and need not work out the same thing twice."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found

    @cached_property
    def nearest_odd(self) -> tuple[Tensor, Tensor]:
        """Each even token's most similar odd one: ToMe's bipartite match (arXiv 2210.09461, 3).

        float32 (b, ceil(n / 2)) cosine and int64 index among the odd tokens, the first on a tie;
        n >= 2. A metric of norm zero is similar to nothing: 0, not NaN. Of long rows a block of
        similarities at a time.
        """
        unit = unit_length(self.metric)
        even, odd = unit[:, ::2], unit[:, 1::2].transpose(-1, -2)
        block = max(1, _MOST_AT_ONCE // (odd.shape[0] * odd.shape[2]))
        found = [(part @ odd).max(dim=-1) for part in even.split(block, dim=1)]
        return torch.cat([f.values for f in found], 1), torch.cat([f.indices for f in found], 1)

    def need_attention(self) -> tuple[Attention, Tensor]:
        """The attention and the visual positions in it. Raises ValueError where there is none."""
        if self.attention is None or self.visual is None:
            raise ValueError("this method reads attention: use it inside the encoder or the llm")
        return self.attention, self.visual

    @property
    def text(self) -> Tensor:
        """int64 (l - n,): positions of the attention that are not visual."""
        attention, visual = self.need_attention()
        rest = torch.ones(attention.length, dtype=torch.bool, device=visual.device)
        rest.index_fill_(0, visual, False)
        return marked(rest, attention.length - visual.shape[0])

    @cached_property
    def salience(self) -> Tensor:
        """float32 (b, n), see Evidence; of this very layer inside the encoder."""
        if self.attention is None:
            return self._shown("salience")
        attention, visual = self.need_attention()
        if self.has_class:
            return attention.weights(visual.new_zeros(1)).mean(dim=1)[:, 0, visual]
        return attention.received()[:, visual]

    @cached_property
    def keys(self) -> Tensor:
        """float32 (b, n, h, e): keys of every head; `keys.mean(dim=2)` is ToMe's metric."""
        if self.attention is None:
            return self._shown("keys")
        attention, visual = self.need_attention()
        return attention.k.float()[:, :, visual].transpose(1, 2)

    @cached_property
    def patch_attention(self) -> Tensor:
        """float32 (b, n, n), averaged over heads. For an encoder's n only, never inside the LLM."""
        if self.attention is None:
            return self._shown("attention")
        attention, visual = self.need_attention()
        return attention.weights(visual).mean(dim=1)[:, :, visual]

    @property
    def has_class(self) -> bool:
        """Whether there is a class token that `salience` is the attention of."""
        if self.attention is None or self.visual is None:
            return self.evidence is not None and self.evidence.has_class
        return not self.attention.causal and self.attention.length > self.visual.shape[0]

    def _shown(self, need: Need) -> Tensor:
        shown = None if self.evidence is None else getattr(self.evidence, need)
        if not isinstance(shown, Tensor):
            raise ValueError(f"this method needs the encoder's {need}, which is not there")
        return shown


def unit_length(x: Tensor) -> Tensor:
    """float32, each vector of the last dimension scaled to length 1; zero stays zero."""
    x = x.float()
    unit: Tensor = x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo().tiny)
    return unit


def located(grid: Layout, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, row and column of each place on `grid`, int64 of place's shape.

    A newline has column `grid.columns`; one after a frame or the video has row 0, and the one
    after the video the last frame.
    """
    frame = (place // grid.per_frame).clamp_max(grid.frames - 1)
    within = place - frame * grid.per_frame
    wide = grid.columns + int(grid.newline == "grid")
    row, column = within // wide, within % wide
    after = within >= grid.rows * wide  # "frame" and "one_token" newlines
    return frame, row.masked_fill(after, 0), column.masked_fill(after, grid.columns)
