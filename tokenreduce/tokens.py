"""What flows between the parts: visual tokens, where they came from and what a method may see.

Letters used in every shape of this project:
    b  rows reduced alike (frames before the LLM, 1 inside it)
    n  visual tokens of a row going in          m  visual tokens of a row coming out
    d  channels          h  attention heads     l  all positions of a sequence, text included
    f  frames            r, c  rows and columns of the grid of one frame

Knows nothing about methods, models or videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


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

    def as_one_row(self) -> Tokens:
        """All rows after each other."""
        flat = (self.x.flatten(0, 1), self.size.flatten(), self.place.flatten())
        return Tokens(*(part.unsqueeze(0) for part in flat))

    @classmethod
    def cat(cls, parts: Sequence[Tokens]) -> Tokens:
        """The tokens of all parts side by side, row by row."""
        return cls(
            torch.cat([part.x for part in parts], dim=1),
            torch.cat([part.size for part in parts], dim=1),
            torch.cat([part.place for part in parts], dim=1),
        )

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
        return self.k.shape[2]

    def logits(self, rows: Tensor, among: Tensor | None = None) -> Tensor:
        """float32 (b, h, r, c): scaled logits of the queries at `rows` int64 (r,) for the keys at
        `among` int64 (c,), all l by default; the future at -inf.

        The product runs in the operands' dtype promoted to float32, scaled afterwards, so that
        bfloat16 operands lose nothing. Keys of grouped heads are not repeated.
        """
        b, h, _, d = self.q.shape
        kv, r = self.k.shape[1], rows.shape[0]
        q = self.q.index_select(2, rows).float().reshape(b * kv, h // kv * r, d)
        keys = self.k if among is None else self.k.index_select(2, among)
        k = keys.float().reshape(b * kv, -1, d)
        z = torch.bmm(q, k.transpose(1, 2)).mul_(self.scale).view(b, h, r, k.shape[1])
        if self.causal:
            if among is None:
                among = torch.arange(self.length, device=rows.device)
            z = z.masked_fill_(among > rows.unsqueeze(-1), float("-inf"))
        return z

    def weights(self, rows: Tensor) -> Tensor:
        """float32 (b, h, r, l): softmax of `logits`."""
        return self.logits(rows).softmax(dim=-1)

    def received(self, rows: Tensor | None = None, block: int = 128) -> Tensor:
        """float32 (b, l): attention each position gets, averaged over heads and over the queries
        at `rows` (all of them by default). A block of rows at a time: no l x l tensor."""
        if rows is None:
            rows = torch.arange(self.length, device=self.q.device)
        got = torch.zeros(self.q.shape[0], self.length, device=self.q.device)
        for part in rows.split(block):
            got += self.weights(part).mean(dim=1).sum(dim=1)
        return got / max(1, rows.shape[0])

    def rows_within(self, block_bytes: int | None = None) -> int:
        """How many rows of float32 weights of all heads fit into block_bytes (4 MiB on a CPU by
        default, so that they stay in its cache, else 64 MiB), from 16 to 128 and at most l: fewer
        waste the matrix product, more what causality leaves empty."""
        if block_bytes is None:
            block_bytes = (4 if self.q.device.type == "cpu" else 64) << 20
        b, h, length, _ = self.q.shape
        return min(length, max(16, min(block_bytes // (b * h * length * 4), 128)))


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


@dataclass(frozen=True)
class Affinity:
    """Where the information of dropped tokens goes: up to t kept tokens for each of them.

    target  (b, n - m, t) int64, indices among the m kept
    weight  (b, n - m, t) float32, at least 0; a weight of 0 goes nowhere
    """

    target: Tensor
    weight: Tensor

    @classmethod
    def nowhere(cls, split: Split) -> Affinity:
        """t = 0: a pruned token is one that relates to nothing."""
        b, dropped = split.drop.shape
        device = split.drop.device
        return cls(
            torch.zeros(b, dropped, 0, dtype=torch.int64, device=device),
            torch.zeros(b, dropped, 0, device=device),
        )

    @classmethod
    def one(cls, target: Tensor) -> Affinity:
        """Each dropped token goes whole to `target` (b, n - m)."""
        return cls(target.unsqueeze(-1), torch.ones(*target.shape, 1, device=target.device))

    def total(self, m: int) -> Tensor:
        """float32 (b, m): the weights that arrive at each kept token."""
        b = self.target.shape[0]
        row = torch.arange(b, device=self.target.device).unsqueeze(1) * m
        out = torch.zeros(b * m, device=self.weight.device)
        index = (self.target.flatten(1) + row).flatten()
        return add_rows(out, index, self.weight.flatten()).view(b, m)

    def into(self, values: Tensor, m: int) -> Tensor:
        """float32 (b, m, e): for each kept token the weighted sum of values (b, n - m, e)."""
        b, dropped, t = self.target.shape
        e = values.shape[-1]
        out = torch.zeros(b * m, e, device=values.device)
        row = torch.arange(b, device=values.device).unsqueeze(1) * m
        for i in range(t):  # few targets, many channels: one pass each needs no (t, e) copies
            index = (self.target[:, :, i] + row).flatten()
            weighted = values.float() * self.weight[:, :, i : i + 1]
            add_rows(out, index, weighted.reshape(b * dropped, e))
        return out.view(b, m, e)


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """`total` (n, ...), to whose row index[i] rows[i] was added in place, in the same order in
    every run: index int64 (r,), rows (r, ...) of total's dtype.

    On a GPU index_add_ adds atomically, in whatever order its threads come, and sums of floating
    point differ by it; index_put_ sorts by index first. The range of an index is checked on the
    CPU alone: elsewhere it would be read back, for which the host waits twice.
    """
    if total.device.type == "cpu":
        return total.index_add_(0, index, rows)
    unchecked: Tensor = torch.ops.aten._index_put_impl_(total, (index,), rows, True, True)
    return unchecked


def marked(mask: Tensor, count: int) -> Tensor:
    """int64 (..., count), ascending: where each row of mask bool (..., n) is true, as often as the
    caller knows it to be. Unlike nonzero, this does not wait for a GPU to count."""
    return mask.byte().argsort(dim=-1, descending=True, stable=True)[..., :count]
