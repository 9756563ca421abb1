"""LLaVA-PruMerge: patches that draw attention stay and take in what is like them.

Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models",
ICCV 2025, arXiv 2403.15388, sections 3.2 (which stay), 3.3 (what joins them) and 3.4 (PruMerge+)
and algorithm 1 (equation numbers not verified). Official repository: 42Shawn/LLaVA-PruMerge,
functions token_prune_merge_advanced and token_prune_merge_advanced_plus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule
from tokenreduce.seen import Need, Seen, unit_length
from tokenreduce.steps import joined_sizes, once, weakest
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes


@dataclass(frozen=True)
class PruMerge:
    """Keeps the highest attention from the class token. Each kept token adds the tokens most like
    it, kept ones too, times their attention; one more is the sum of all dropped, likewise weighted.

    neighbours  how many tokens each kept one takes in; similarity is the cosine of the keys, all
                heads side by side
    plus        PruMerge+: a quarter by attention, the others evenly spread over the rest

    Count: official code keeps the outliers of the attention (by quartiles), a count of its own;
    here exactly what is asked. The token of all dropped is in the code and not in algorithm 1; it
    is one of those kept and stands at the least attended of them, where official code appends it.
    Own weight 1 and an undivided sum: the code; the paper speaks of a weighted average. Layer: the
    code's features come from the layer before the one of its queries and keys; here both are of the
    last that runs. Heads: the code takes one softmax over all heads together; here, as everywhere,
    the mean of each head's. Without a class token: attention received, averaged over queries and
    heads. PruMerge+: the code samples a stride over all positions and drops duplicates, which gives
    no chosen count. Raster order. Its weights were tuned; nothing is tuned here.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"frames"})
    needs: ClassVar[frozenset[Need]] = frozenset({"salience", "keys"})
    usual: ClassVar[Schedule | None] = None
    rounds = staticmethod(once)
    neighbours: int = 32
    plus: bool = False

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours {self.neighbours}: a token takes in at least 1")

    def filter(self, seen: Seen, keep: int) -> Split:
        if not self.plus:
            return Split.of_score(seen.salience, keep)
        top = Split.of_score(seen.salience, max(1, keep // 4))
        spread, rest = keep - top.keep.shape[1], top.drop.shape[1]
        even = torch.tensor([i * rest // spread for i in range(spread)], dtype=torch.int64)
        sample = top.drop[:, even.to(top.drop.device)]
        return Split.of_keep(torch.cat([top.keep, sample], dim=1), seen.tokens.count)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        m = split.keep.shape[1]
        near = _columns(self._near(seen, split), split.drop)
        near.scatter_(1, weakest(seen.salience, split).unsqueeze(-1).expand_as(near[:, :1]), True)
        weight = seen.salience.gather(1, split.drop).unsqueeze(-1) * near.transpose(1, 2)
        target = torch.arange(m, device=near.device).expand_as(weight)
        return Affinity(target, weight)

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        kept, dropped = seen.tokens.take(split.keep), seen.tokens.take(split.drop)
        attended = seen.salience.gather(1, split.keep)
        extra = weakest(seen.salience, split)
        own = torch.ones_like(attended).scatter_(1, extra, attended.gather(1, extra))
        among = _columns(self._near(seen, split), split.keep) * attended.unsqueeze(1)
        x = (among + own.diag_embed()) @ kept.x.float()
        # Every dropped token may go to every kept one: `correlate` gave all pairs.
        x += affinity.weight.transpose(1, 2) @ dropped.x.float()
        return Tokens(x.to(kept.x.dtype), joined_sizes(seen, split, extra), kept.place)

    def _near(self, seen: Seen, split: Split) -> Tensor:
        """bool (b, m, n): which tokens each kept one takes in; none for the sum of all dropped."""
        unit = unit_length(seen.keys.flatten(2))
        wide = split.keep.unsqueeze(-1)
        likeness = unit.gather(1, wide.expand(-1, -1, unit.shape[-1])) @ unit.transpose(1, 2)
        likeness.scatter_(2, wide, float("-inf"))  # not itself
        n = likeness.shape[-1]
        index = likeness.topk(min(self.neighbours, n - 1), dim=-1).indices
        near = torch.zeros_like(likeness, dtype=torch.bool).scatter_(2, index, True)
        extra = weakest(seen.salience, split).unsqueeze(-1).expand(-1, -1, n)
        return near.scatter_(1, extra, False)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """Similarity twice, since both what is dropped and what is kept is taken in."""
        n, keys = sizes.n, sizes.heads * sizes.head_width or sizes.metric
        pairs = keep * n
        return Cost(2 * pairs * (2 * keys + sizes.channels), 6 * n * keys + pairs) * sizes.rows


def _columns(near: Tensor, index: Tensor) -> Tensor:
    """Of (b, m, n) the columns `index` (b, k)."""
    return near.gather(2, index.unsqueeze(1).expand(-1, near.shape[1], -1))
