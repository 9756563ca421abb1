"""FrameFusion: what repeats in later frames merges into the earlier, then attention prunes.

Fu et al., "FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large
Vision Language Models", ICCV 2025, arXiv 2501.01986 (section not verified: the paper's text was not
at hand, and what is said of it below is from memory). Official repository: thu-nics/FrameFusion,
class FrameFusion (forward, merge_tokens_and_get_mask).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Once, Schedule
from tokenreduce.seen import Need, Seen, located, unit_length
from tokenreduce.steps import attention_of_last, mean_into, once
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes, attending

_AT_ONCE = 1024
"""Pairs compared together: scratch memory does not grow with the video."""


@dataclass(frozen=True)
class FrameFusion:
    """Merges what repeats at its position in the frame before, most similar pairs first. A run of
    merged tokens goes whole into the first of it, as their plain mean.

    similarity: cosine from which tokens merge inside the LLM; what it cannot reach, pruning does,
    by attention from the last position (FastV's rank).

    The official rule is a threshold until the budget is met, or the exact count of most similar
    ones where that is fewer; with `keep` asked for, it is the second at the site "clip" (the call
    before layer 0), and inside the LLM first the one, then the other in the same layer (officially
    the prune comes a layer later). The first frame never merges away: below the number of distinct
    positions, which the paper leaves undefined, every run merges and an even stride of the runs
    stays (ours). Newlines, where woven in, are positions like others (code).

    We follow the code where the paper differs: importance is the last query's attention, not the
    cumulated one of all. We follow the paper: the mean of `cost` is over the model's own layers,
    not 28. Inside the LLM the choice is made on what entered a layer and applied to what leaves it
    (officially between attention and MLP). Usual schedule: cost .3 in the fixed form that follows,
    three layers full, the rest at (.3 * 28 - 3) / 25. Not followed: run lengths in the features'
    dtype, wrong above 256 frames in bfloat16. A vector of zeros is similar to nothing, not NaN.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"clip", "llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Once(Fraction(1, 14), Fraction(27, 125))
    rounds = staticmethod(once)
    similarity: float = 0.6

    def __post_init__(self) -> None:
        if not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity {self.similarity}: a cosine, from -1 to 1")

    def filter(self, seen: Seen, keep: int) -> Split:
        merged = self._merged(seen, keep)
        if seen.attention is None:
            score = _evenly(~merged, keep)
        elif bool((merged.sum(dim=1) == seen.tokens.count - keep).all()):
            score = torch.zeros_like(merged, dtype=torch.float32)
        else:
            score = attention_of_last(seen)
        return Split.of_score(score.masked_fill(merged, float("-inf")), keep)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        """A merged token goes to the last before it in its run that did not merge, if that one
        was not pruned."""
        m = split.keep.shape[1]
        if m == 0:
            return Affinity.nowhere(split)
        order, follows = runs(seen)
        if seen.attention is None:  # all that goes and has one before it has merged
            gone = torch.zeros_like(follows).scatter_(1, split.drop, True)
            merged = gone & torch.zeros_like(follows).scatter_(1, order, follows)
        else:
            merged = self._merged(seen, m)
        step = torch.arange(order.shape[1], device=order.device).expand_as(order)
        first = step.masked_fill(merged.gather(1, order), 0).cummax(dim=1).values
        root = torch.empty_like(order).scatter_(1, order, order.gather(1, first))
        at = torch.full_like(order, -1)  # where each token stands among the kept
        at.scatter_(1, split.keep, step[:, :m])
        target = at.gather(1, root).gather(1, split.drop)
        lives = merged.gather(1, split.drop) & (target >= 0)
        return Affinity(target.clamp_min(0).unsqueeze(-1), lives.float().unsqueeze(-1))

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        return mean_into(seen, split, affinity, weighted=False)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """One cosine a token; inside the LLM once more to correlate, and the last row of attention,
        which may not be needed."""
        times = 2 if sizes.length else 1
        compared = Cost(0, times * sizes.rows * sizes.n * 6 * (sizes.metric or sizes.channels))
        return compared + attending(sizes, 1)

    def _merged(self, seen: Seen, keep: int) -> Tensor:
        """bool (b, n): the at most n - keep tokens that merge into an earlier one."""
        alike = similarities(seen)
        least = float("-inf") if seen.attention is None else self.similarity
        able = (alike >= least) & alike.isfinite()
        by_rank = alike.argsort(dim=1, descending=True, stable=True)
        first = torch.zeros_like(able)
        first.scatter_(1, by_rank[:, : seen.tokens.count - keep], True)
        return first & able


def runs(seen: Seen) -> tuple[Tensor, Tensor]:
    """int64 (b, n): the tokens in order of position in the frame, then time; bool (b, n), of that
    order: whether the one before is of the same position."""
    place = seen.tokens.place
    frame, _, _ = located(seen.grid, place)
    within = place - frame * seen.grid.per_frame
    order = (within * seen.grid.frames + frame).argsort(dim=1, stable=True)
    within = within.gather(1, order)
    follows = torch.zeros_like(within, dtype=torch.bool)
    follows[:, 1:] = within[:, 1:] == within[:, :-1]
    return order, follows


def similarities(seen: Seen) -> Tensor:
    """float32 (b, n): cosine of each token with the one before it at its position, -inf where
    there is none."""
    order, follows = runs(seen)
    cosine = torch.zeros(order.shape, device=order.device)
    for row, x in enumerate(seen.metric):
        for start in range(0, order.shape[1] - 1, _AT_ONCE):
            unit = unit_length(x[order[row, start : start + _AT_ONCE + 1]])
            cosine[row, start + 1 : start + unit.shape[0]] = (unit[1:] * unit[:-1]).sum(dim=-1)
    cosine = cosine.masked_fill_(~follows, float("-inf"))
    return torch.empty_like(cosine).scatter_(1, order, cosine)


def _evenly(among: Tensor, keep: int) -> Tensor:
    """float32 (b, n): 1 for `keep` tokens at an even stride of those marked in `among`, bool
    (b, n); 0 for all others. At least one is marked, and no fewer than `keep`."""
    rank, count = among.cumsum(dim=1) - 1, among.sum(dim=1, keepdim=True)
    # How many of the middles (2 i + 1) count // (2 keep) lie below a rank, as the control
    # "uniform" has them.
    below = [((2 * (rank + i) * keep - 1) // count + 1) // 2 for i in (0, 1)]
    return ((below[1] > below[0]) & among).float()
