"""VisionZip: the patches that draw attention stay, the others are averaged into a few of them.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025,
arXiv 2412.04467, section 2.3 (equation numbers not verified). Official repository:
dvlab-research/VisionZip, functions CLIPVisionTower_VisionZip.forward and CLIPAttention_forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule
from tokenreduce.seen import Need, Seen, unit_length
from tokenreduce.steps import mean_into, once, prune, weakest
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes


@dataclass(frozen=True)
class VisionZip:
    """Keeps the most attended patches, and of the rest an even stride that takes in its likes. Most
    attended by the class token; without one, the paper's form for SigLIP: attention received,
    averaged over queries and heads. Like are those whose keys, mean over heads, are most similar.

    contextual      their share of the tokens kept, rounded; the paper's settings all have 10 of 64
    anchor_in_mean  the contextual token is the mean of itself and what joins it, as the paper
                    reads. False is the official code, with which the figures were made: itself
                    plus the mean of what joins it, about twice the norm

    Official code: the class token is kept as well and counted as a dominant one; here rows hold
    patches alone, and all of the count kept are patches. Official code: dominant tokens come
    first, then contextual ones; here raster order. As there, the stride is rounded down, so that
    the end of a row has no contextual token, and none are weighted by size. Fewer than 4 tokens
    kept are all dominant, and the rest is dropped.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"frames"})
    needs: ClassVar[frozenset[Need]] = frozenset({"salience", "keys"})
    usual: ClassVar[Schedule | None] = None
    rounds = staticmethod(once)
    contextual: float = 10 / 64
    anchor_in_mean: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual {self.contextual}: a share of the kept, from 0 to 1")

    def _anchors(self, keep: int) -> int:
        return round(keep * self.contextual)

    def filter(self, seen: Seen, keep: int) -> Split:
        anchors, n = self._anchors(keep), seen.tokens.count
        dominant = Split.of_score(seen.salience, keep - anchors)
        step = max(1, dominant.drop.shape[1] // max(1, anchors))
        contextual = dominant.drop[:, ::step][:, :anchors]
        return Split.of_keep(torch.cat([dominant.keep, contextual], dim=1), n)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        anchors = self._anchors(split.keep.shape[1])
        if anchors == 0:
            return Affinity.nowhere(split)
        at = weakest(seen.salience, split, anchors)  # dominant tokens are those above them
        unit = unit_length(seen.metric)
        likeness = _rows(unit, split.drop) @ _rows(unit, split.keep.gather(1, at)).transpose(1, 2)
        return Affinity.one(at.gather(1, likeness.argmax(dim=-1)))

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        if affinity.target.shape[-1] == 0:
            return prune(seen, split, affinity)
        if self.anchor_in_mean:
            return mean_into(seen, split, affinity, weighted=False)
        kept, dropped = seen.tokens.take(split.keep), seen.tokens.take(split.drop)
        m = split.keep.shape[1]
        joined = affinity.total(m).unsqueeze(-1)
        mean = affinity.into(dropped.x, m) / joined.clamp_min(1)
        x = torch.where(joined > 0, (kept.x.float() + mean).to(kept.x.dtype), kept.x)
        size = kept.size + affinity.into(dropped.size.unsqueeze(-1), m).squeeze(-1)
        return Tokens(x, size, kept.place)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        dropped, anchors = sizes.n - keep, self._anchors(keep)
        if anchors == 0:
            return Cost()
        products = 2 * dropped * anchors * sizes.metric
        added = (dropped + 2 * anchors) * sizes.channels
        return Cost(products, 3 * sizes.n * sizes.metric + added) * sizes.rows


def _rows(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
