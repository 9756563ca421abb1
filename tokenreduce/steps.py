"""Steps that several methods share: ways to choose rounds, to correlate and to compress.

Functions of Seen and Split only; knows no method by name.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenreduce.seen import Seen
from tokenreduce.tokens import Affinity, Split, Tokens, add_rows
from tokenreduce.work import Cost, Sizes, attending

_BLOCK = 2048
"""Dropped tokens whose features are weighted at a time."""


def once(n: int, keep: int) -> tuple[int, ...]:
    """One round straight to `keep`."""
    return (keep,)


def halving(n: int, keep: int) -> tuple[int, ...]:
    """AIM's rounds: n // 2 tokens go, then n // 4, ...; the last asks for exactly what is missing.

    Requests are fractions of the count at the start (arXiv 2412.03248; official code: token_merge
    called with r = n // 2, n // 4, ...). A bipartite round removes at most half.

    >>> halving(196, 52)
    (98, 52)
    """
    counts, left, request = [], n, n // 2
    while left > keep:
        left -= min(max(request, 1), left // 2, left - keep)
        counts.append(left)
        request //= 2
    return tuple(counts)


def attention_of_last(seen: Seen) -> Tensor:
    """float32 (b, n): what each visual token gets of the last position's attention, averaged over
    query heads. The rank of FastV (arXiv 2403.06764) and PyramidDrop (arXiv 2410.17247)."""
    attention, visual = seen.need_attention()
    last = torch.arange(attention.length - 1, attention.length, device=visual.device)
    return attention.weights(last).mean(dim=1)[:, 0].index_select(1, visual)


def greedy(n: int, keep: int) -> tuple[int, ...]:
    """The fewest bipartite rounds: each removes as many as it may, n // 2, until `keep` is left.

    >>> greedy(196, 52)
    (98, 52)
    """
    counts, left = [], n
    while left > keep:
        left -= min(left // 2, left - keep)
        counts.append(left)
    return tuple(counts)


def matched(seen: Seen, keep: int) -> Split:
    """All but the n - keep even tokens most similar to an odd one, the lower index first on a tie
    (ToMe, arXiv 2210.09461, section 3). keep is at least n - ceil(n / 2)."""
    strength, _ = seen.nearest_odd
    order = strength.argsort(dim=1, descending=True, stable=True)
    gone = Split.of_keep(2 * order[:, : seen.tokens.count - keep], seen.tokens.count)
    return Split(keep=gone.drop, drop=gone.keep)


def to_partner(seen: Seen, split: Split) -> Affinity:
    """Each dropped even token goes whole to the odd one most similar to it."""
    _, partner = seen.nearest_odd
    target = 2 * partner.gather(1, split.drop // 2) + 1  # its index among all n
    return Affinity.one(torch.searchsorted(split.keep.contiguous(), target))


def weakest(score: Tensor, split: Split, count: int = 1) -> Tensor:
    """int64 (b, count), ascending, indices among the m kept: those of the lowest score (b, n); on a
    tie the higher index is the weaker, as in `Split.of_score`. 0 <= count <= m."""
    kept = score.gather(1, split.keep)
    order = kept.argsort(dim=1, descending=True, stable=True)
    return order[:, kept.shape[1] - count :].sort(dim=1).values


def targets_of_quantile(quantile: float, kept: int) -> int:
    """How many of a row of `kept` >= 1 entries are at or above its `quantile`, as FiCoCo counts:
    floor((1 - quantile) (kept - 1)) + 1 (arXiv 2411.17686).

    >>> targets_of_quantile(0.998, 500), targets_of_quantile(0.998, 501)
    (1, 2)
    """
    return int(round((1 - quantile) * (kept - 1), 9)) + 1  # 1 - 0.998 is not 0.002


def nowhere(seen: Seen, split: Split) -> Affinity:
    """Dropped tokens relate to nothing: a pruned token is one whose correlation is nowhere."""
    return Affinity.nowhere(split)


def prune(seen: Seen, split: Split, affinity: Affinity) -> Tokens:
    """The kept tokens as they are."""
    return seen.tokens.take(split.keep)


def mean_into(seen: Seen, split: Split, affinity: Affinity, *, weighted: bool) -> Tokens:
    """Each kept token becomes the mean of itself and the dropped tokens sent to it.

    Every dropped token goes to one kept token, or nowhere. weighted: each token counts by its
    size (ToMe); else all count alike (AIM).
    """
    size = _sizes(seen, split, affinity)
    if weighted:
        return _mixed(seen, split, affinity, seen.tokens.size, size, size)
    count = 1 + affinity.total(split.keep.shape[1])
    return _mixed(seen, split, affinity, torch.ones_like(seen.tokens.size), count, size)


def _sizes(seen: Seen, split: Split, affinity: Affinity) -> Tensor:
    """float32 (b, m): sizes of what stays, with those of what is sent to it, by weight."""
    dropped = seen.tokens.size.gather(1, split.drop).unsqueeze(-1)
    arrived = affinity.into(dropped, split.keep.shape[1]).squeeze(-1)
    return seen.tokens.size.gather(1, split.keep) + arrived


def _mixed(
    seen: Seen, split: Split, affinity: Affinity, weight: Tensor, count: Tensor, size: Tensor
) -> Tokens:
    """Each kept token becomes the sum of itself and what is sent to it, each times its weight
    (b, n), divided by count (b, m). A token that nothing joins keeps its very bits.

    Sums are made of the joined tokens alone and a block of dropped ones at a time, in float32: with
    the features of a long clip every copy of them counts.
    """
    (b, m), n, d = split.keep.shape, seen.tokens.count, seen.tokens.x.shape[2]
    kept, every = seen.tokens.take(split.keep), seen.tokens.x.reshape(b * n, d)
    joined = (affinity.total(m) > 0).flatten()
    at = joined.nonzero().squeeze(1)
    if at.shape[0] == 0:
        return replace(kept, size=size)
    x = kept.x.view(b * m, d)
    own = weight.gather(1, split.keep).flatten()[at].unsqueeze(-1)
    total = x.index_select(0, at).float().mul_(own)
    slot = (joined.cumsum(0) - 1).clamp_min_(0)  # a weight of 0 may aim at what nothing joins
    row = torch.arange(b, device=x.device).unsqueeze(1)
    source = (split.drop + row * n).flatten()
    for i in range(affinity.target.shape[2]):
        target = slot[(affinity.target[:, :, i] + row * m).flatten()]
        share = (affinity.weight[:, :, i] * weight.gather(1, split.drop)).flatten()
        for part in torch.arange(source.shape[0], device=x.device).split(_BLOCK):
            given = every.index_select(0, source[part]).float().mul_(share[part].unsqueeze(-1))
            add_rows(total, target[part], given)
    total.div_(count.flatten()[at].unsqueeze(-1))
    x.index_copy_(0, at, total.to(x.dtype))
    return replace(kept, size=size)


def joined_sizes(seen: Seen, split: Split, target: Tensor) -> Tensor:
    """float32 (b, m): all that is dropped counts for the one kept token at `target` (b, 1)."""
    size, dropped = seen.tokens.size, seen.tokens.size.gather(1, split.drop)
    return size.gather(1, split.keep).scatter_add(1, target, dropped.sum(dim=1, keepdim=True))


def self_preserving(seen: Seen, split: Split, affinity: Affinity) -> Tokens:
    """Each kept token adds what is sent to it, by weight, and is divided by 1 + those weights
    (FiCoCo, arXiv 2411.17686: X_j <- (X_j + sum_i a_ij X_i) / (1 + sum_i a_ij))."""
    ones = torch.ones_like(seen.tokens.size)
    count = 1 + affinity.total(split.keep.shape[1])
    return _mixed(seen, split, affinity, ones, count, _sizes(seen, split, affinity))


def strongest(strength: Tensor, t: int) -> Affinity:
    """Each dropped token's t strongest kept ones, weights scaled to sum to 1 (a quantile of the
    row, by top-k). strength float32 (b, n - m, m), at least 0; a row of zeros goes nowhere."""
    weight, target = strength.topk(min(t, strength.shape[-1]), dim=-1)
    return Affinity(target, weight / weight.sum(dim=-1, keepdim=True).clamp_min(1e-30))


def shown_salience(sizes: Sizes) -> Cost:
    """`Seen.salience` made once more: inside an encoder the class token's row of the attention, or
    all rows where there is none. After the encoder it is counted with the evidence."""
    if sizes.length == 0:
        return Cost()
    return attending(sizes, 1 if sizes.text > 0 else sizes.n)


def at_once(sizes: Sizes, keep: int) -> Cost:
    """Choosing by position or by chance computes nothing worth counting."""
    return Cost()
