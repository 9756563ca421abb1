"""FiCoCo-L: what image attends to and text does not goes into its likes, layer by layer.

Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration", AAAI
2026, arXiv 2411.17686 (version 4), section 4, equations 3 (filter) and 4 (correlate); section 3.3,
equation 2 (compress); section 9 of the appendix (numbers, first layer). Official repository:
kawhiiiileo/FiCoCo, whose code neither imports nor indexes rightly: here the paper throughout.
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
from tokenreduce.tokens import Affinity, Split
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

    Usual schedule: equal steps; the 4th of 32 layers is the first that tokens leave. Causality
    makes entries of the printed equations zero, so: attention of visual tokens is the mean of a
    column over all of them, those before it as 0 (the mean of a row tells nothing); attention
    between text and image is that of text, of all that comes after the first visual token;
    attention between two visual tokens is that of the later one. No local penalty. Official code:
    no division by 1 plus the weights, the first 576 positions taken for the image, positions packed
    anew; none of it followed.

    No n x n tensor: rows of what is discarded, a block at a time and head by head; one prompt.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Even(Fraction(3, 32), Fraction(1))
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
        looks = _looks(seen)
        told = looks.text.sum(dim=0) / max(1, looks.text.shape[0])
        score = self.balance * looks.image - (1 - self.balance) * told
        return Split.of_score(-score.unsqueeze(0), keep)

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
        """C a block of rows at a time, float32 (r, m). Of a discarded and a kept token the later
        one attends, so each pair is looked at once, but for those amid a block."""
        looks, kept = _looks(seen), split.keep[0].contiguous()
        block = seen.need_attention()[0].rows_within()
        before = torch.searchsorted(kept, split.drop[0].contiguous()).cpu()  # kept ones before each
        for part, reach in zip(split.drop[0].split(block), before.split(block), strict=True):
            through = looks.text[:, part].T @ looks.text[:, kept] / max(1, looks.text.shape[0])
            first, last = int(reach[0]), int(reach[-1])
            between = torch.zeros_like(through)
            between[:, :last] += _between(seen, part, kept[:last])
            between[:, first:] += _between(seen, kept[first:], part).T
            yield self.direct * between + (1 - self.direct) * through

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """Attention of image and text to filter, of the image only what is not in the future; that
        between discarded and kept; the strips through text."""
        looked = attending(sizes, sizes.text) + _half(attending(sizes, sizes.n))
        if keep == 0:
            return looked
        pairs = (sizes.n - keep) * keep
        between = Cost(2 * pairs * sizes.heads * sizes.head_width, SOFTMAX * pairs * sizes.heads)
        targets = targets_of_quantile(self.quantile, keep)
        moved = Cost(0, 2 * ((sizes.n - keep) * targets + keep) * sizes.channels)
        return looked + between + Cost(2 * pairs * sizes.text) + moved


@dataclass(frozen=True)
class _Looks:
    """Who looks at the n visual tokens of one prompt, float32, averaged over heads.

    image  (n,)    attention received from all n, on average
    text   (t, n)  attention received from each of the text after the first of them
    total  (h, n)  logarithm of the softmax's denominator of each visual query
    """

    image: Tensor
    text: Tensor
    total: Tensor


def _looks(seen: Seen) -> _Looks:
    """Made once, for the filter and the correlation."""
    return seen.once("looks", lambda: _look(seen))


def _look(seen: Seen) -> _Looks:
    attention, visual = seen.need_attention()
    n, block = visual.shape[0], attention.rows_within()
    image, totals = torch.zeros(attention.length, device=visual.device), []
    for part, end in zip(visual.split(block), visual.cpu().split(block), strict=True):
        past = torch.arange(int(end[-1]) + 1, device=visual.device)
        z = attention.logits(part, past)[0]
        totals.append(z.logsumexp(dim=2))
        image[: past.shape[0]] += z.sub_(totals[-1].unsqueeze(2)).exp_().mean(dim=0).sum(dim=0)
    text = seen.text
    after = text[text > visual[0]]  # the text that can see an image, at least in part
    rows = [attention.weights(t).mean(dim=1)[0, :, visual] for t in after.split(block)]
    return _Looks(image[visual] / n, torch.cat(rows), torch.cat(totals, dim=1))


def _between(seen: Seen, queries: Tensor, keys: Tensor) -> Tensor:
    """float32 (r, c): attention weights, averaged over heads, of visual tokens for visual ones."""
    attention, visual = seen.need_attention()
    z = attention.logits(visual[queries], visual[keys])[0]
    total = _looks(seen).total[:, queries]
    return z.sub_(total.unsqueeze(2)).exp_().mean(dim=0)


def _half(cost: Cost) -> Cost:
    return Cost(cost.matmul // 2, cost.elementwise // 2)
