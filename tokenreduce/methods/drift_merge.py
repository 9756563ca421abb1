"""Merging over the whole clip, most redundant first: this project's own, a step of `drift`.

Takes AIM's bipartite matching (arXiv 2412.03248) and ToMe's weights (arXiv 2210.09461), and looks
one frame back as FrameFusion does (arXiv 2501.01986), at any position. As the most similar pairs
of the whole clip merge first, a frame keeps as many tokens as it shows that is new.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule
from tokenreduce.seen import Need, Seen, located, unit_length
from tokenreduce.steps import mean_into
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes

_BLOCK = 256
"""Tokens compared at a time."""


@dataclass(frozen=True)
class DriftMerge:
    """Tokens merge with the most similar ones of their own or the previous frames, the most
    similar pairs of the clip first; means are weighted by size.

    step: largest share of the tokens that goes in one round; back: frames looked back.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"clip"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = None
    step: float = 0.25
    back: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.step <= 0.5 or self.back < 0:
            raise ValueError(f"step {self.step}, back {self.back}: above 0 to 0.5, and at least 0")

    def rounds(self, n: int, keep: int) -> tuple[int, ...]:
        counts = []
        while n > keep:
            n = max(keep, n - max(1, int(n * self.step)))
            counts.append(n)
        return tuple(counts)

    def filter(self, seen: Seen, keep: int) -> Split:
        n = seen.tokens.count
        strength, _ = self._partners(seen)
        go = strength.argsort(dim=1, descending=True, stable=True)[:, : n - keep]
        stays = torch.ones_like(seen.tokens.place, dtype=torch.bool).scatter(1, 2 * go, False)
        return Split.of_score(stays.float(), keep)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        _, partner = self._partners(seen)
        target = partner.gather(1, split.drop // 2)
        return Affinity.one(torch.searchsorted(split.keep.contiguous(), target.contiguous()))

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        return mean_into(seen, split, affinity, weighted=True)

    def _partners(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """For each token of even index its most similar odd one within reach: float32 cosine and
        int64 index among the n, both (b, ceil(n / 2)); where none is in reach -2, a neighbour."""

        def paired() -> tuple[Tensor, Tensor]:
            frame, _, _ = located(seen.grid, seen.tokens.place)
            pairs = [self._row(x, own) for x, own in zip(seen.metric, frame, strict=True)]
            return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

        return seen.once(f"drift {self.back}", paired)

    def _row(self, x: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Of one clip: x (n, e), frame (n,) ascending. A few frames at a time, so that no copy of
        the clip in float32 is made, and no more steps where frames hold few tokens."""
        n = x.shape[0]
        best = torch.full(((n + 1) // 2,), -2.0, device=x.device)
        neighbour = torch.arange(0, n, 2, device=x.device)
        index = (neighbour + 1).where(neighbour + 1 < n, neighbour - 1)
        for low, start, stop in self._blocks(frame):
            unit = unit_length(x[low:stop])
            rows, columns = start + start % 2, low + 1 - low % 2
            even, odd = unit[rows - low :: 2], unit[columns - low :: 2]
            if even.shape[0] and odd.shape[0]:
                similar = even @ odd.T
                back = frame[rows:stop:2].unsqueeze(1) - frame[columns:stop:2]
                similar.masked_fill_((back < 0) | (back > self.back), -2.0)
                value, at = similar.max(dim=1)
                own = slice(rows // 2, rows // 2 + even.shape[0])
                best[own] = value
                index[own] = torch.where(value > -2.0, columns + 2 * at, index[own])
        return best, index

    def _blocks(self, frame: Tensor) -> Iterator[tuple[int, int, int]]:
        """Whole frames, `_BLOCK` tokens of them unless one has more: where the frames in reach of
        the first begin, where it begins, and where the last ends."""
        found = frame.cpu().unique_consecutive(return_counts=True)  # a GPU is waited for once
        there, counts = (part.tolist() for part in found)
        ends = list(accumulate(counts, initial=0))
        first = 0
        for i in range(len(there)):
            if i + 1 == len(there) or ends[i + 2] - ends[first] > _BLOCK:
                low = bisect_left(there, there[first] - self.back)
                yield ends[low], ends[first], ends[i + 1]
                first = i + 1

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """Of one round, as if every frame still held as many tokens as any other; a block of
        frames is compared with itself and the frames in reach of its first."""
        frames, metric = max(1, sizes.frames), sizes.metric or sizes.channels
        each = sizes.n / frames
        group = max(1, int(_BLOCK / each))
        blocks = ((first, min(group, frames - first)) for first in range(0, frames, group))
        reach = sum(own * (own + min(self.back, first)) for first, own in blocks)
        pairs = int(reach * each / 2 * each / 2)
        moved = (sizes.n + keep) * sizes.channels
        return Cost(2 * pairs * metric, 3 * sizes.n * metric + moved) * sizes.rows
