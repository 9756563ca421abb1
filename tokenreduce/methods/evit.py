"""EViT: the tokens the class token attends to stay, all others are fused into one.

Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token
Reorganizations", ICLR 2022, arXiv 2202.07800, section 3, equation 1 ("Attentive token
identification") and the sum of "Inattentive token fusion" (equation number not verified). Official
repository: youweiliang/evit, classes Attention and Block.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule, Steps
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import joined_sizes, once, prune, shown_salience, weakest
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes

_QUARTERS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))


@dataclass(frozen=True)
class EViT:
    """Keeps the highest attention from the class token; the rest becomes one token, a sum weighted
    by that attention. Without a class token (SigLIP): attention received, averaged over queries
    and heads.

    fuse        False: the rest is dropped
    normalised  the fused token is divided by its weights. False is the official code and the
                equation, which gives a token of small norm: inside an encoder the next layer norm
                makes up for it, after the encoder nothing does

    The fused token is one of those kept: official code with k patches leaves k + 1 tokens. It takes
    the place of the best patch that is fused, where official code appends it. Paper and code train
    with it and anneal the share kept; here nothing is trained. Official code: tokens leave between
    a layer's attention and its MLP; here when they leave the layer. `usual`: after the 4th, 7th
    and 10th of 12 layers there, a share of .7 each; here at the same quarters of the depth.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"encoder", "frames"})
    needs: ClassVar[frozenset[Need]] = frozenset({"salience"})
    usual: ClassVar[Schedule | None] = Steps(_QUARTERS, Fraction(7, 10))
    rounds = staticmethod(once)
    fuse: bool = True
    normalised: bool = False

    def filter(self, seen: Seen, keep: int) -> Split:
        return Split.of_score(seen.salience, keep)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        if not self.fuse:
            return Affinity.nowhere(split)
        target = weakest(seen.salience, split).expand_as(split.drop)
        return Affinity(target.unsqueeze(-1), seen.salience.gather(1, split.drop).unsqueeze(-1))

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        if not self.fuse:
            return prune(seen, split, affinity)
        kept, dropped = seen.tokens.take(split.keep), seen.tokens.take(split.drop)
        at = weakest(seen.salience, split)
        own = seen.salience.gather(1, split.keep).gather(1, at).unsqueeze(-1)
        wide = at.unsqueeze(-1).expand(-1, -1, kept.x.shape[-1])
        added = affinity.weight.transpose(1, 2) @ dropped.x.float()  # all go to one: (b, 1, d)
        fused = own * kept.x.gather(1, wide).float() + added
        if self.normalised:
            weight = own + affinity.weight.sum(dim=1, keepdim=True)
            fused = fused / weight.clamp_min(torch.finfo().tiny)
        x = kept.x.scatter(1, wide, fused.to(kept.x.dtype))
        return Tokens(x, joined_sizes(seen, split, at), kept.place)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        if not self.fuse:
            return shown_salience(sizes)
        fused = Cost(2 * (sizes.n - keep) * sizes.channels, 2 * sizes.channels)
        return shown_salience(sizes) + fused * sizes.rows
