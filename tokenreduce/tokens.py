"""What flows between the parts: visual tokens, where they came from and what a method may see.

Letters used in every shape of this project:
    b  rows reduced alike (frames before the LLM, 1 inside it)
    n  visual tokens of a row going in          m  visual tokens of a row coming out
    d  channels          h  attention heads     l  all positions of a sequence, text included
    f  frames            r, c  rows and columns of the grid of one frame

Knows nothing about methods, models or videos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The shape of the visual tokens before any reduction.

    A place p of a row of `frames x rows x columns` tokens lies in frame p // (rows * columns).
    """

    frames: int
    rows: int
    columns: int

    @property
    def per_frame(self) -> int:
        """Tokens of one frame, newlines not counted."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Tokens:
    """Visual tokens of one site; every reduction maps Tokens to fewer Tokens and nothing else.

    x      (b, n, d)  features, any floating dtype
    size   (b, n)     float32, patches each token stands for; 1 before any merging
    place  (b, n)     int64, position in the row before any reduction, strictly ascending
    """

    x: Tensor
    size: Tensor
    place: Tensor

    def __post_init__(self) -> None:
        if self.x.shape[:2] != self.size.shape or self.size.shape != self.place.shape:
            raise ValueError(
                f"shapes disagree: x {tuple(self.x.shape)}, size {tuple(self.size.shape)}, "
                f"place {tuple(self.place.shape)}"
            )

    @classmethod
    def fresh(cls, x: Tensor) -> Tokens:
        """Unreduced tokens: every size 1, every place its own index. x: (b, n, d)."""
        b, n, _ = x.shape
        place = torch.arange(n, device=x.device).expand(b, n)
        return cls(x, torch.ones(b, n, device=x.device), place)

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    @property
    def count(self) -> int:
        """Tokens of each row."""
        return self.x.shape[1]

    def take(self, index: Tensor) -> Tokens:
        """The tokens at `index` (b, m) of each row, in that order."""
        wide = index.unsqueeze(-1).expand(-1, -1, self.x.shape[-1])
        return Tokens(
            self.x.gather(1, wide), self.size.gather(1, index), self.place.gather(1, index)
        )

    def in_order(self) -> Tokens:
        """The same tokens sorted by place: raster order within a frame, frames in time order."""
        return self.take(self.place.argsort(dim=1, stable=True))

    def with_x(self, x: Tensor) -> Tokens:
        return replace(self, x=x)

    def bare(self) -> Tokens:
        """Sizes and places alone: x has no channels and takes no memory."""
        return self.with_x(self.x.new_empty(*self.size.shape, 0))


@dataclass(frozen=True)
class Attention:
    """Queries and keys of one layer after RoPE; weights are made only for the rows asked for.

    q      (b, h, l, d_head)
    k      (b, h_kv, l, d_head), h a multiple of h_kv (grouped-query attention)
    scale  multiplies q . k
    causal a row sees itself and what is before it
    """

    q: Tensor
    k: Tensor
    scale: float
    causal: bool

    def __post_init__(self) -> None:
        if self.q.shape[1] % self.k.shape[1] != 0:
            raise ValueError(f"{self.q.shape[1]} query heads over {self.k.shape[1]} key heads")

    @property
    def heads(self) -> int:
        return self.q.shape[1]

    @property
    def length(self) -> int:
        return self.q.shape[2]

    def logits(self, start: int, stop: int) -> Tensor:
        """float32 (b, h, stop - start, l): scaled logits of rows start..stop, future at -inf.

        The product runs in the operands' dtype promoted to float32, scaled afterwards, so that
        bfloat16 operands lose nothing.
        """
        b, h, length, d = self.q.shape
        kv = self.k.shape[1]
        rows = self.q[:, :, start:stop].float().reshape(b, kv, h // kv, stop - start, d)
        z = torch.matmul(rows, self.k.float().unsqueeze(2).transpose(-1, -2)) * self.scale
        z = z.reshape(b, h, stop - start, length)
        if self.causal:
            row = torch.arange(start, stop, device=z.device).unsqueeze(-1)
            column = torch.arange(length, device=z.device)
            z = z.masked_fill(column > row, float("-inf"))
        return z

    def weights(self, start: int, stop: int) -> Tensor:
        """float32 (b, h, stop - start, l): softmax of `logits`."""
        return self.logits(start, stop).softmax(dim=-1)


@dataclass(frozen=True)
class Seen:
    """All that a method may look at where it acts.

    tokens     the visual tokens here, Tokens of (b, n, d). Inside the LLM a choice is made while
               the layer attends: it sees the features that entered the layer, and what is then
               compressed are those that left it
    metric     (b, n, e) what similarity is measured on
    grid       shape before any reduction; maps `tokens.place` to (frame, row, column).
               At the site "frames" each row is one frame: grid.frames is 1
    visual     (n,) int64, positions of the visual tokens among the l of `attention`, or None
    attention  of the layer this site follows, or None where there is none
    seed       of the run, for methods that draw
    """

    tokens: Tokens
    metric: Tensor
    grid: Grid
    visual: Tensor | None = None
    attention: Attention | None = None
    seed: int = 0

    @cached_property
    def nearest_odd(self) -> tuple[Tensor, Tensor]:
        """Each even token's most similar odd one: ToMe's bipartite match (arXiv 2210.09461, 3).

        float32 (b, ceil(n / 2)) cosine and int64 index among the odd tokens, the first on a tie;
        n >= 2. A metric of norm zero is similar to nothing: 0, not NaN.
        """
        metric = self.metric.float()
        unit = metric / metric.norm(dim=-1, keepdim=True).clamp_min(torch.finfo().tiny)
        strength, index = torch.matmul(unit[:, ::2], unit[:, 1::2].transpose(-1, -2)).max(dim=-1)
        return strength, index

    def need_attention(self) -> tuple[Attention, Tensor]:
        """The attention and the visual positions in it. Raises ValueError where there is none."""
        if self.attention is None or self.visual is None:
            raise ValueError("this method reads attention: use it inside the encoder or the llm")
        return self.attention, self.visual


@dataclass(frozen=True)
class Split:
    """A filter's verdict: indices into the n tokens of each row, both ascending.

    keep (b, m), drop (b, n - m): together each index exactly once.
    """

    keep: Tensor
    drop: Tensor

    @classmethod
    def of_keep(cls, keep: Tensor, n: int) -> Split:
        """Completes `keep` (b, m), any order, to a Split of n tokens."""
        taken = torch.zeros(keep.shape[0], n, dtype=torch.bool, device=keep.device)
        taken.scatter_(1, keep, True)
        order = taken.int().argsort(dim=1, descending=True, stable=True)
        return cls(order[:, : keep.shape[1]], order[:, keep.shape[1] :])

    @classmethod
    def of_score(cls, score: Tensor, keep: int) -> Split:
        """Keeps the `keep` highest of score (b, n); on a tie the lower index wins."""
        order = score.argsort(dim=1, descending=True, stable=True)
        return cls.of_keep(order[:, :keep], score.shape[1])
