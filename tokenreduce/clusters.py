"""Clusters around density peaks (DPC-KNN), and the distances they are found by; knows no method.

"Study on density peaks clustering based on k-nearest neighbors and principal component analysis",
Knowledge-Based Systems 2016, doi 10.1016/j.knosys.2016.02.001, in the form of SparseVLM's official
code (arXiv 2410.04417).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.work import Cost

_MOST_PAIRS = 1 << 21
"""Distances in a tensor, 8 MiB of float32."""


def distances(x: Tensor, y: Tensor) -> Tensor:
    """float32 (b, r, c): root mean square over channels of the differences of x (b, r, d) and
    y (b, c, d)."""
    mean = y.float().mean(dim=1, keepdim=True)  # what all share would only cost digits
    return _apart(x.float() - mean, y.float() - mean)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    apart: Tensor = torch.cdist(x, y) / x.shape[-1] ** 0.5
    return apart


def density_peaks(x: Tensor, c: int) -> Tensor:
    """int64 (b, c): the tokens of x (b, r, d) that are dense among their c nearest, themselves
    included, and far from any denser one; of equally dense ones the first is denser.

    In logarithms: a density of exp(-104) is 0 in float32. A block of rows at a time: no r x r
    tensor where r is large.
    """
    x = x.float() - x.float().mean(dim=1, keepdim=True)
    parts = _blocks(x.shape[1])
    nearest, widest, apart = [], [], x
    for part in parts:
        apart = symmetric(x, part)
        nearest.append(apart.square().topk(c, dim=2, largest=False).values.mean(dim=2))
        widest.append(apart.amax(dim=(1, 2)))
    sparse = torch.cat(nearest, dim=1)
    order = sparse.argsort(dim=1, stable=True)  # the densest first
    if len(parts) == 1:  # all distances are at hand
        rows = apart.gather(1, order.unsqueeze(2).expand_as(apart))
        far = [_to_denser(rows.gather(2, order.unsqueeze(1).expand_as(apart)), 0)]
    else:
        x = x.gather(1, order.unsqueeze(2).expand_as(x))
        far = [_to_denser(_apart(x[:, p], x[:, : p.stop]), p.start) for p in parts]
    far[0][:, 0] = torch.stack(widest).amax(dim=0)
    score = torch.cat(far, dim=1).log() - sparse.gather(1, order)
    return order.gather(1, score.argsort(dim=1, descending=True, stable=True)[:, :c])


def _to_denser(apart: Tensor, start: int) -> Tensor:
    """float32 (b, rows): the least of each row's distances to tokens before it; the rows are those
    from `start` on, the columns all up to the last of them."""
    rows = torch.arange(start, apart.shape[2], device=apart.device).unsqueeze(1)
    later = torch.arange(apart.shape[2], device=apart.device) >= rows
    return apart.masked_fill(later, float("inf")).amin(dim=2)


def symmetric(x: Tensor, part: slice) -> Tensor:
    """float32 (b, rows of part, r): distances among the tokens of x (b, r, d), float32, to the bit
    the same from both sides, so that two that are each other's nearest are equally dense."""
    apart = _apart(x[:, part], x)
    other = apart if apart.shape[1] == x.shape[1] else _apart(x, x[:, part])
    apart = torch.maximum(apart, other.mT)
    apart[:, :, part].diagonal(dim1=1, dim2=2).zero_()
    return apart


def _blocks(r: int) -> list[slice]:
    """Rows of an r x r tensor, as many as make `_MOST_PAIRS` of it."""
    rows = max(1, _MOST_PAIRS // r)
    return [slice(start, min(start + rows, r)) for start in range(0, r, rows)]


def peaks_work(r: int, channels: int) -> Cost:
    """What `density_peaks` of r tokens computes: distances of all pairs; where they are several
    blocks, from both sides, and those to denser ones once more."""
    parts = _blocks(r)
    pairs = r * r
    if len(parts) > 1:
        pairs = 2 * pairs + sum((part.stop - part.start) * part.stop for part in parts)
    return Cost(2 * pairs * channels)
