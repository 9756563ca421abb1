"""FiCoCo-L: what image attends to and text does not goes into its likes, layer by layer.

Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration",
AAAI 2026, arXiv 2411.17686. Official repository: kawhiiiileo/FiCoCo, whose code neither imports
nor indexes rightly: here the paper throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Even, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import once, self_preserving, strongest, targets_of_quantile
from tokenreduce.tokens import Affinity, Attention, Split
from tokenreduce.work import SOFTMAX, Cost, Sizes, attending


@dataclass(frozen=True)
class FiCoCoL:
    """Discards the highest redundancy: attention received from visual tokens, against attention
    received from text. Each goes to the kept tokens at or above the quantile of its row, by their
    attention and by how much the same text attends to both; those are divided by 1 and what they
    got.

    balance   beta, the share of the visual side; both sides are means of attention weights and mix
              as they are (FiCoCo-V scales them, this one the paper prints without)
    direct    gamma, the share of the attention between two tokens, against that through text
    quantile  epsilon; by top-k, floor((1 - epsilon) (m - 1)) + 1 targets among m kept

    Usual schedule: equal steps from the 4th of 32 layers on. Causality makes entries of the printed
    equations zero, so: attention of visual tokens is the mean of a column over all of them, those
    before it as 0 (the mean of a row tells nothing); attention between text and image is that of
    text, of all that comes after the first visual token; attention between two visual tokens is
    that of the later one. No local penalty. Official code: no division by 1 plus the weights, the
    first 576 positions taken for the image, positions packed anew; none of it followed.

    No n x n tensor: rows of what is discarded, a block at a time and head by head; one prompt.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Even(Fraction(1, 8), Fraction(1))
    rounds = staticmethod(once)
    compress = staticmethod(self_preserving)
    balance: float = 0.6
    direct: float = 0.6
    quantile: float = 0.998

    def __post_init__(self) -> None:
        for name in ("balance", "direct", "quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: a share, from 0 to 1")

    def filter(self, seen: Seen, keep: int) -> Split:
        attention, visual = seen.need_attention()
        block = min(128, max(1, attention.length // (8 * attention.heads)))
        vision = attention.received(visual, block)
        task = attention.received(_text(seen), block)
        score = self.balance * vision - (1 - self.balance) * task
        return Split.of_score(-score.index_select(1, visual), keep)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        if split.keep.shape[1] == 0:
            return Affinity.nowhere(split)
        targets = targets_of_quantile(self.quantile, split.keep.shape[1])
        parts = [strongest(rows.unsqueeze(0), targets) for rows in self._strengths(seen, split)]
        return Affinity(
            torch.cat([part.target for part in parts], dim=1),
            torch.cat([part.weight for part in parts], dim=1),
        )

    def _strengths(self, seen: Seen, split: Split) -> Iterator[Tensor]:
        """C a block of rows at a time, float32 (r, m)."""
        attention, visual = seen.need_attention()
        block = min(1024, max(1, visual.shape[0] // 8))
        kept, total = split.keep[0], _totals(attention, visual, block)
        text = _text(seen)
        told = torch.cat([attention.weights(t).mean(dim=1)[0] for t in text.split(16)])
        told = told.index_select(1, visual)
        for part in split.drop[0].split(block):
            through = told[:, part].T @ told[:, kept] / max(1, text.shape[0])
            between = torch.zeros_like(through)
            for head in range(attention.heads):
                for one, other, turned in ((part, kept, False), (kept, part, True)):
                    z = _logits(attention, head, visual[one], visual[other])
                    weight = z.sub_(total[head, one].unsqueeze(1)).exp_()
                    between += weight.T if turned else weight
            yield self.direct * between / attention.heads + (1 - self.direct) * through

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """Attention of image and text to filter and again to correlate, that between discarded and
        kept both ways, and the strips through text."""
        if keep == 0:
            return attending(sizes, sizes.length)
        pairs = (sizes.n - keep) * keep
        between = Cost(
            4 * pairs * sizes.heads * sizes.head_width, 2 * SOFTMAX * pairs * sizes.heads
        )
        targets = targets_of_quantile(self.quantile, keep)
        moved = Cost(0, 2 * ((sizes.n - keep) * targets + keep) * sizes.channels)
        return attending(sizes, sizes.length) * 2 + between + Cost(2 * pairs * sizes.text) + moved


def _text(seen: Seen) -> Tensor:
    """int64: positions of the text that can see an image, at least in part."""
    _, visual = seen.need_attention()
    text = seen.text
    return text[text > visual[0]]


def _totals(attention: Attention, queries: Tensor, block: int) -> Tensor:
    """float32 (h, r): logarithm of the softmax's denominator of each query, over all positions."""
    every = torch.arange(attention.length, device=queries.device)
    heads = [
        torch.cat([_logits(attention, h, q, every).logsumexp(dim=1) for q in queries.split(block)])
        for h in range(attention.heads)
    ]
    return torch.stack(heads)


def _logits(attention: Attention, head: int, queries: Tensor, keys: Tensor) -> Tensor:
    """float32 (r, c) of one head of one prompt; -inf where a key lies in the query's future."""
    group = attention.heads // attention.k.shape[1]
    q = attention.q[0, head].index_select(0, queries).float()
    k = attention.k[0, head // group].index_select(0, keys).float()
    z = (q @ k.T).mul_(attention.scale)
    if attention.causal:
        z = z.masked_fill_(keys > queries.unsqueeze(1), float("-inf"))
    return z
