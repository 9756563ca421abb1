"""AIM's merging of visual tokens before the LLM, by similarity of their features.

Zhong et al., "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning", ICCV
2025, arXiv 2412.03248, "Token Merging before LLM" (section not verified). Official repository:
LaVi-Lab/AIM, functions bipartite_soft_matching_merge and get_2dPool.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Once, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import halving, matched, mean_into, to_partner
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes, matching


@dataclass(frozen=True)
class AimMerge:
    """Even tokens most similar to an odd one become part of it, in rounds that halve the count.

    weighted: average by token size, as ToMe does. False is AIM: a mean of means.

    AIM for images (LLaVA-1.5) is the site "encoder": after the last layer that features are taken
    from, before the projector, by the similarity of that layer's keys, which are merged as the
    features are. The paper keeps 252 of 576 (43.75 %) or 72 (12.5 %). Official code: the keys of
    the layer after that one, all heads side by side; here that layer is not even loaded, and keys
    are the mean over heads, as ToMe's. At the other sites similarity is that of the features.

    Official code: survivors come first, ranked by similarity, then the odd ones. Here raster order
    always, because newlines, time stamps and causal order depend on it; the set and the values are
    the same. Official code: ties fall as an unstable sort leaves them; here the lower index is
    merged first.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"encoder", "frames", "clip"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Once(Fraction(999, 1000), Fraction(7, 16))  # the last layer
    rounds = staticmethod(halving)
    filter = staticmethod(matched)
    correlate = staticmethod(to_partner)
    weighted: bool = False

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        return mean_into(seen, split, affinity, weighted=self.weighted)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        return matching(sizes, keep)
