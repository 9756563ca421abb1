"""ToMe: bipartite merging of tokens by the similarity of their keys, averaged by size.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461, section 3, equation
1 (attention in proportion to size) and table 1. Official repository: facebookresearch/ToMe,
functions bipartite_soft_matching and merge_wavg.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Even, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import greedy, matched, mean_into, to_partner
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import matching


@dataclass(frozen=True)
class ToMe:
    """Even tokens most similar to an odd one become part of it; a mean weighted by size.

    Similarity is the cosine of the layer's keys, averaged over heads (table 1: K, cosine).

    Paper and code agree on one round. Official code: the tokens left stand by falling similarity,
    then the odd ones, and the next round alternates over that; here raster order always, because
    causal order depends on it, so from the second round on other tokens meet. Official code: with
    a class token the parity of the patches shifts by one; here even patches are the ones that
    move, with or without one. Official code: tokens merge between a layer's attention and its MLP;
    here when they leave the layer. Official code: a zero key gives NaN; here it is similar to
    nothing. Attention in proportion to size is the encoder's to do, not the method's.

    At the site "frames" rounds of at most half follow each other until the count is met, and the
    keys are merged as the features are.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"encoder", "frames"})
    needs: ClassVar[frozenset[Need]] = frozenset({"keys"})
    usual: ClassVar[Schedule | None] = Even()
    proportional: ClassVar[bool] = True
    rounds = staticmethod(greedy)
    filter = staticmethod(matched)
    correlate = staticmethod(to_partner)
    work = staticmethod(matching)

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        return mean_into(seen, split, affinity, weighted=True)
