"""FiCoCo-V: what other patches attend to and the class token does not goes into its likes.

Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration", AAAI
2026, arXiv 2411.17686 (version 4), section 3.2, equation 1 (filter); section 3.3, equation 2
(correlate, compress); of the appendix section 9 (numbers, first layer) and section 10.2, equations
9 to 13 (no class token). Official repository: kawhiiiileo/FiCoCo, whose code neither imports nor
indexes rightly: here the paper throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Even, Schedule
from tokenreduce.seen import Need, Seen, located, unit_length
from tokenreduce.steps import once, self_preserving, strongest, targets_of_quantile
from tokenreduce.tokens import Affinity, Split
from tokenreduce.work import Cost, Sizes, attending


@dataclass(frozen=True)
class FiCoCoV:
    """Discards the highest redundancy: attention received from patches, against attention from the
    class token. Without one (SigLIP): against the dissimilarity of a patch's key, mean over heads,
    to the mean of all keys (the paper's appendix). Each goes, by attention, to the kept patches at
    or above the quantile of its row; those are divided by 1 and what they got.

    balance   lambda, the share of the patches' side. Both sides are scaled to length 1 over the
              tokens before they mix; the paper leaves the scale open
    quantile  epsilon; by top-k, floor((1 - epsilon) (m - 1)) + 1 targets among m kept
    window    of the local penalty: on the grid, the highest in each window of window x window is
              doubled if positive and halved if negative, so that what goes is spread out. Windows
              at the edges are partial, places already gone count for nothing; 1 changes nothing

    Attention received is the mean of a column; the mean of a row, as the paper prints it, is the
    same number for every patch. On LLaVA-Video the site is the pooled grid after the encoder, since
    its pooling needs whole frames. Usual schedule: equal steps; the 12th layer is the first that
    tokens leave, of the 23 of CLIP's 24 that LLaVA-1.5 uses. Official code: one map of scores for
    all images, merge targets of the order before and places of the order after, 576 patches and
    batches of 1; none of it followed.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"encoder", "frames"})
    needs: ClassVar[frozenset[Need]] = frozenset({"salience", "keys", "attention"})
    usual: ClassVar[Schedule | None] = Even(Fraction(11, 23), Fraction(1))
    rounds = staticmethod(once)
    compress = staticmethod(self_preserving)
    balance: float = 0.35
    quantile: float = 0.998
    window: int = 2

    def __post_init__(self) -> None:
        for name in ("balance", "quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: a share, from 0 to 1")
        if self.window < 1:
            raise ValueError(f"window {self.window}: a count of places, at least 1")

    def filter(self, seen: Seen, keep: int) -> Split:
        vision = unit_length(seen.patch_attention.mean(dim=1))
        semantic = unit_length(seen.salience if seen.has_class else _apart(seen.keys.mean(dim=2)))
        score = self.balance * vision - (1 - self.balance) * semantic
        return Split.of_score(-self._penalised(seen, score), keep)

    def _penalised(self, seen: Seen, score: Tensor) -> Tensor:
        frame, row, column = located(seen.grid, seen.tokens.place)
        high, wide = (-(-side // self.window) for side in (seen.grid.rows, seen.grid.columns))
        cell = (frame * high + row // self.window) * wide + column // self.window
        best = score.new_full((score.shape[0], seen.grid.frames * high * wide), float("-inf"))
        best = best.scatter_reduce(1, cell, score, "amax")
        n = score.shape[1]
        index = torch.arange(n, device=score.device).expand_as(score)
        index = index.masked_fill(score < best.gather(1, cell), n)
        first = torch.full_like(best, n, dtype=torch.int64).scatter_reduce(1, cell, index, "amin")
        highest = index == first.gather(1, cell)  # one a window; the first on a tie
        return torch.where(highest, torch.where(score > 0, 2 * score, score / 2), score)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        n, m = seen.tokens.count, split.keep.shape[1]
        rows = seen.patch_attention.gather(1, split.drop.unsqueeze(-1).expand(-1, -1, n))
        strength = rows.gather(2, split.keep.unsqueeze(1).expand(-1, rows.shape[1], -1))
        return strongest(strength, targets_of_quantile(self.quantile, m))

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """Inside the encoder all rows of attention; without a class token also each key against
        the mean of all."""
        n, targets = sizes.n, targets_of_quantile(self.quantile, max(1, keep))
        moved = 2 * ((n - keep) * targets + keep) * sizes.channels
        own = Cost(0, n * n + moved)
        if not sizes.has_class and sizes.text <= 0:
            own += Cost(2 * n * sizes.head_width, 4 * n * sizes.heads * sizes.head_width)
        return attending(sizes, sizes.length) + own * sizes.rows


def _apart(keys: Tensor) -> Tensor:
    """float32 (b, n): minus the cosine of each of `keys` (b, n, e) to their mean."""
    mean = unit_length(keys.mean(dim=1, keepdim=True))
    return -(unit_length(keys) @ mean.transpose(1, 2)).squeeze(-1)
