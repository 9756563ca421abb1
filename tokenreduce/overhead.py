"""What a reduction itself computes, for the methods whose arithmetic is known; others count as 0.

From counts alone, like tokenreduce.cost: nothing here looks at a tensor. A new method with work of
its own is added to `before_llm` or `inside_llm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tokenreduce.budget import Layout, NewlineKeep, allot
from tokenreduce.cost import SOFTMAX, Cost, summed
from tokenreduce.engine.types import Prune
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.models.spec import TextSpec
from tokenreduce.paradigm import Method


def before_llm(
    method: Method | None, width: int, layout: Layout, budget: int, rule: NewlineKeep = "share"
) -> Cost:
    """Reducing the frames of `layout`, of `width` channels, to `budget` tokens.

    Raises ValueError if budget is below 1.
    """
    if not isinstance(method, AimMerge):
        return Cost()
    whole = layout.rows * layout.columns
    costs = []
    for share in allot(layout, budget, rule).shares:
        frames = share.stop - share.start
        within = [whole, *method.rounds(whole, share.features)]
        costs.append(merging(width, frames, within))
        if frames > 1:  # a run of frames, by now of one token each, becomes one token
            costs.append(merging(width, 1, [frames, *method.rounds(frames, 1)]))
    return summed(costs)


def inside_llm(
    prunes: Sequence[Prune], text: TextSpec, per_layer: Sequence[int], text_tokens: int
) -> Cost:
    """Choosing what leaves each layer. per_layer: visual tokens each layer attended to.

    A layer is scored only if some of its tokens go and some stay, as the engine does it.
    """
    cost = Cost()
    for layer, attended in enumerate(per_layer):
        left = attended
        for prune in prunes:
            keep = prune.schedule.kept(layer, len(per_layer), per_layer[0])
            if isinstance(prune.method, AimPrune) and 0 < keep < left:
                cost += scoring(text, left + text_tokens, prune.method.iterations)
            left = min(left, keep)
    return cost


def scoring(text: TextSpec, tokens: int, iterations: int = 5) -> Cost:
    """AIM's importance after one layer of `tokens` positions: q k^T once more, its softmax, and
    the PageRank steps, all over the n (n + 1) / 2 pairs that are not in the future."""
    pairs = tokens * (tokens + 1) // 2
    product = 2 * pairs * text.heads * text.head_width
    return Cost(
        matmul=product + iterations * 2 * pairs * text.heads,
        elementwise=SOFTMAX * pairs * text.heads,
    )


def merging(width: int, rows: int, counts: Sequence[int]) -> Cost:
    """Bipartite merging of `rows` rows whose token count goes through `counts`, the first included.

    A round compares every even with every odd token, after scaling each to length 1, and adds what
    goes into what stays by a product with a one-hot matrix.
    """
    cost = Cost()
    for before, after in pairwise(counts):
        even, odd = (before + 1) // 2, before // 2
        products = 2 * (even * odd + (before - after) * after) * width
        cost += Cost(products, (3 * before + 2 * after) * width)
    return cost * rows
