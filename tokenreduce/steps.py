"""Steps that several methods share: ways to choose rounds, to correlate and to compress.

Functions of Seen and Split only; knows no method by name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.tokens import Seen, Split, Tokens


def once(n: int, keep: int) -> tuple[int, ...]:
    """One round straight to `keep`."""
    return (keep,)


def halving(n: int, keep: int) -> tuple[int, ...]:
    """AIM's rounds: n // 2 tokens go, then n // 4, ...; the last asks for exactly what is missing.

    Requests are fractions of the count at the start (arXiv 2412.03248, section 3.2; official code:
    token_merge called with r = n // 2, n // 4, ...). A bipartite round removes at most half.

    >>> halving(196, 52)
    (98, 52)
    """
    counts, left, request = [], n, n // 2
    while left > keep:
        left -= min(max(request, 1), left // 2, left - keep)
        counts.append(left)
        request //= 2
    return tuple(counts)


def nowhere(seen: Seen, split: Split) -> Tensor:
    """Dropped tokens relate to nothing: a pruned token is one whose correlation is nowhere.

    float32 (b, n - m, m) of zeros expanded from one scalar, so it takes no memory.
    """
    (b, m), dropped = split.keep.shape, split.drop.shape[1]
    return torch.zeros((), device=split.keep.device).expand(b, dropped, m)


def prune(seen: Seen, split: Split, affinity: Tensor) -> Tokens:
    """The kept tokens as they are."""
    return seen.tokens.take(split.keep)


def mean_into(seen: Seen, split: Split, affinity: Tensor, *, weighted: bool) -> Tokens:
    """Each kept token becomes the mean of itself and the dropped tokens sent to it.

    affinity (b, n - m, m) is one-hot, or zero in the rows of tokens that go nowhere. weighted:
    each token counts by its size (ToMe); else all count alike (AIM).
    """
    kept, dropped = seen.tokens.take(split.keep), seen.tokens.take(split.drop)
    size = kept.size + torch.einsum("bsm,bs->bm", affinity, dropped.size)
    if weighted:
        x = kept.x * kept.size.unsqueeze(-1).to(kept.x.dtype)
        share = affinity * dropped.size.unsqueeze(-1)
        count = size
    else:
        x, share = kept.x, affinity
        count = 1 + affinity.sum(dim=1)
    added = torch.einsum("bsm,bsd->bmd", share.to(x.dtype), dropped.x)
    # A token that nothing joined keeps its very bits.
    joined = (affinity.sum(dim=1) > 0).unsqueeze(-1)
    mean = (x + added) / count.unsqueeze(-1).to(x.dtype)
    return Tokens(torch.where(joined, mean, kept.x), size, kept.place)
