"""SparseVLM: attention from the text tokens that speak of the image; some of the rest recycled.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model
Inference", ICML 2025, arXiv 2410.04417, section 3.2, equations 2 and 3 (rating), 5 and 6 (raters),
7 (counts); section 3.3, equations 8 to 10 (recycling). Official repository: Gumpest/SparseVLMs,
functions attn_postprocess_topk and cluster_and_merge (its default version, 1_0).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.clusters import density_peaks, distances, peaks_work
from tokenreduce.paradigm import Site
from tokenreduce.schedule import Levels, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import mean_into, once
from tokenreduce.tokens import Affinity, Split, Tokens, marked
from tokenreduce.work import Cost, Sizes, attending

_AT_ONCE = 1024
"""Visual tokens compared with the text together."""

_LAYERS = (Fraction(1, 14), Fraction(3, 16), Fraction(15, 32))
_SHARES = (Fraction(309, 576), Fraction(204, 576), Fraction(113, 576))


@dataclass(frozen=True)
class SparseVLM:
    """Keeps what the raters attend to most, and of the best of the rest the means of clusters.

    recycle: share of the dropped tokens that is clustered (tau); clusters: per recycled token
    (theta); both from 0 to 1. Raters are the text tokens, of those after the visual ones, that the
    visual tokens' embeddings before layer 0 point to at least as much as to the average one.

    Of `keep` tokens, s are the highest and c centres of clusters, with s the largest for which
    official counts make s + c = keep. Under the least that they can (about 3 % of what is there)
    one is kept and all others are centres (ours). A cluster is held by its centre's place.

    We follow the code where the paper differs: fixed counts instead of the rank of the attention,
    which no exact count can follow; a token joins the nearest centre by distance, not by cosine;
    clusters are means, not sums, which would leave the scale of the residual stream. We follow the
    paper: raters at least average (code: above, which leaves none where all are equal). Not
    followed: positions packed anew; noise that breaks ties between densities, instead of which the
    higher score counts as denser; the code chooses raters once, here they are chosen from the
    embeddings of the visual tokens that are left; without embeddings all text rates. Clusters are
    chosen by what entered the layer, means are of what leaves it (code: both of what leaves). Usual
    schedule: the counts for "192 tokens" of 576 after layer index 2, 6 and 15 of 32 (2, 5 and 13 of
    28), clusters included.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Levels(_LAYERS, _SHARES)
    rounds = staticmethod(once)
    recycle: Fraction = Fraction(3, 10)
    clusters: Fraction = Fraction(1, 10)

    def __post_init__(self) -> None:
        if not 0 <= self.recycle <= 1 or not 0 <= self.clusters <= 1:
            raise ValueError(
                f"recycle {self.recycle}, clusters {self.clusters}: shares, from 0 to 1"
            )

    def filter(self, seen: Seen, keep: int) -> Split:
        n = seen.tokens.count
        s, r = self.counts(n, keep)
        ranked = seen.tokens.place[:, :0] if keep == 0 else by_rating(seen)
        if keep == s:
            return Split.of_keep(ranked[:, :s], n)
        recycled = ranked[:, s : s + r]
        chosen = density_peaks(seen.tokens.take(recycled).x, keep - s)
        return Split.of_keep(torch.cat([ranked[:, :s], recycled.gather(1, chosen)], dim=1), n)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        """Each recycled token goes to the nearest centre, the first on a tie."""
        m = split.keep.shape[1]
        s, r = self.counts(seen.tokens.count, m)
        if m == s:
            return Affinity.nowhere(split)
        rank = by_rating(seen).argsort(dim=1)
        held = marked(rank.gather(1, split.keep) >= s, m - s)
        freed = marked(rank.gather(1, split.drop) < s + r, r - (m - s))
        middle = seen.tokens.take(split.keep.gather(1, held)).x
        members = seen.tokens.take(split.drop.gather(1, freed)).x
        nearest = held.gather(1, distances(members, middle).argmin(dim=2))
        target = torch.zeros_like(split.drop).scatter_(1, freed, nearest)
        weight = torch.zeros_like(split.drop, dtype=torch.float32).scatter_(1, freed, 1.0)
        return Affinity(target.unsqueeze(-1), weight.unsqueeze(-1))

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        return mean_into(seen, split, affinity, weighted=False)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """Text against visual embeddings and the text's rows of attention, as if all text rated;
        distances among the recycled, and to the centres."""
        s, r = self.counts(sizes.n, keep)
        if keep == 0:
            return Cost()
        rating = attending(sizes, sizes.text) + Cost(2 * sizes.n * sizes.text * sizes.channels)
        if keep == s:
            return rating
        return rating + peaks_work(r, sizes.channels) + Cost(2 * r * (keep - s) * sizes.channels)

    def counts(self, n: int, keep: int) -> tuple[int, int]:
        """How many of n are kept by score, and how many of the rest are recycled."""
        for s in range(keep - 1, 0, -1):
            r = self._recycled(n - s)
            if s + min(int(r * self.clusters) + 1, r) <= keep:
                return s, r
        s = min(keep, 1)
        return s, self._recycled(n - s) if keep > s else 0

    def _recycled(self, dropped: int) -> int:
        return min(int(dropped * self.recycle) + 1, dropped)


def by_rating(seen: Seen) -> Tensor:
    """int64 (b, n): the tokens by falling attention from the raters, the lower index on a tie."""

    def ranked() -> Tensor:
        attention, visual = seen.need_attention()
        score = attention.received(raters(seen), block=16).index_select(1, visual)
        return score.argsort(dim=1, descending=True, stable=True)

    return seen.once("sparsevlm rating", ranked)


def raters(seen: Seen) -> Tensor:
    """int64: positions of the text tokens that rate, at least one."""
    _, visual = seen.need_attention()
    text = seen.text
    text = text[text > visual[-1]]
    if seen.entered is None or text.shape[0] == 0:
        return text if text.shape[0] else seen.text
    entered = seen.entered()
    about = entered.index_select(0, text.to(entered.device)).float()
    shares = about.new_zeros(text.shape[0])
    for part in visual.to(entered.device).split(_AT_ONCE):
        dots = entered.index_select(0, part).float() @ about.T
        shares += dots.softmax(dim=-1).sum(dim=0)
    chosen = text[(shares >= shares.mean()).to(text.device)]
    return chosen if chosen.shape[0] else text[shares.argmax().to(text.device)].unsqueeze(0)
