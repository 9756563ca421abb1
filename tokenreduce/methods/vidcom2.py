"""VidCom2: frames unlike the clip get more tokens, and in each the most unusual ones stay.

Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large
Language Models", EMNLP 2025, arXiv 2505.14454, section 3.3, equations 3 to 6 (frames), and section
3.4, equations 7 to 10 (tokens). Official repository: xuyang-liu16/VidCom2, function
vidcom2_compression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from tokenreduce.budget import in_proportion
from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule
from tokenreduce.seen import Need, Seen, located, unit_length
from tokenreduce.steps import nowhere, once, prune
from tokenreduce.tokens import Split, add_rows
from tokenreduce.work import Cost, Sizes

_AT_ONCE = 4096
"""Tokens looked at together: scratch memory does not grow with the video."""


@dataclass(frozen=True)
class VidCom2:
    """Keeps the tokens least similar to the mean of the clip and of their frame.

    temperature: of the softmax over the frames' uniqueness, above 0. channels: share of channels
    that are looked at, those that vary least over the clip. widths: of the Gaussians whose sum is
    the similarity, above 0.

    We follow the code where the paper differs or is silent: similarity is a sum of Gaussians of the
    distance between vectors of length 1, where equations 4 and 8 have the cosine; the choice of
    channels is in no equation. Counts: the code rounds R P (1 + sigma - 1/F) in each frame by
    itself, at least 1 and at most P, so its total is R F P only roughly; here the same shares of
    the asked total are brought to whole numbers by largest remainders, at least one a frame where
    there are that many, and what a full frame cannot take goes to the others in proportion. Not
    followed: newlines outside the ratio and after the frame's tokens (the reducer weaves them in,
    within the budget), and half precision, which at this temperature changes the shares. Ties: the
    lower index is kept.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"clip"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = None
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)
    temperature: float = 0.01
    channels: Fraction = Fraction(1, 2)
    widths: tuple[float, ...] = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not self.widths or not min(self.widths) > 0:
            raise ValueError(
                f"temperature {self.temperature}, widths {self.widths}: numbers above 0"
            )
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels {self.channels}: a share looked at, above 0, at most 1")

    def filter(self, seen: Seen, keep: int) -> Split:
        frame, _, _ = located(seen.grid, seen.tokens.place)
        rows = [self._row(x, f, keep) for x, f in zip(seen.metric, frame, strict=True)]
        return Split.of_keep(torch.stack(rows), seen.tokens.count)

    def _row(self, x: Tensor, place: Tensor, keep: int) -> Tensor:
        """int64 (keep,): indices into the tokens x (n, d) that lie in the frames `place` (n,)."""
        _, frame, most = place.unique_consecutive(return_inverse=True, return_counts=True)
        video, own = self.similarity(x, frame, most.shape[0])
        counts = shared(keep, self.scales(video, frame, most.shape[0]), most.tolist())
        return lowest(video + own, frame, counts)

    def similarity(self, x: Tensor, frame: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """float32 (n,) each: of the tokens x (n, d) to the mean of all and of their frame."""
        unit = unit_length(x[:, self.steady(x)])
        mean = add_rows(unit.new_zeros(frames, unit.shape[1]), frame, unit)
        mean /= frame.bincount(minlength=frames).unsqueeze(1)
        video, own = [], []
        for part, of in zip(unit.split(_AT_ONCE), frame.split(_AT_ONCE), strict=True):
            video.append(self._gaussians(part - unit.mean(dim=0)))
            own.append(self._gaussians(part - mean[of]))
        return torch.cat(video), torch.cat(own)

    def _gaussians(self, off: Tensor) -> Tensor:
        square = off.square().sum(dim=-1)
        return torch.stack([(-square / (2 * w)).exp() for w in self.widths]).sum(dim=0)

    def steady(self, x: Tensor) -> Tensor:
        """int64, ascending: the channels of x (n, d) of lowest variance."""
        mean = x.mean(dim=0, dtype=torch.float32)
        spread = torch.zeros_like(mean)
        for part in x.split(_AT_ONCE):
            spread += (part.float() - mean).square_().sum(dim=0)
        count = max(1, int(x.shape[1] * self.channels))
        return spread.argsort(stable=True)[:count].sort().values

    def scales(self, video: Tensor, frame: Tensor, frames: int) -> Tensor:
        """float32 (frames,): 1 + sigma - 1/F, what a frame gets of an even share."""
        total = add_rows(video.new_zeros(frames), frame, video)
        alike = total / frame.bincount(minlength=frames)
        return 1 + (-alike / self.temperature).softmax(dim=0) - 1 / frames

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """Variances of all channels; length, means and two distances in those looked at."""
        looked = int(sizes.channels * self.channels)
        each = 3 * sizes.channels + 10 * looked + 6 * len(self.widths)
        return Cost(0, sizes.rows * sizes.n * each)


def shared(keep: int, scales: Tensor, most: Sequence[int]) -> list[int]:
    """`keep` tokens over frames of most[t] >= 1 each, in proportion to scales (frames,), at least
    one each where keep suffices."""
    weights = scales.double().tolist()
    counts, open_ = [1] * len(most), list(range(len(most)))
    while True:
        left = keep - (len(most) - len(open_))
        got = in_proportion(left, [weights[t] for t in open_], [most[t] for t in open_])
        empty = {t for t, count in zip(open_, got, strict=True) if count == 0}
        if not empty or keep < len(most):
            break
        open_ = [t for t in open_ if t not in empty]
    for t, count in zip(open_, got, strict=True):
        counts[t] = count
    return counts


def lowest(score: Tensor, frame: Tensor, counts: Sequence[int]) -> Tensor:
    """int64, ascending: of each frame t the counts[t] tokens of lowest score (n,).

    frame (n,): the frame of each token, 0 .. len(counts) - 1, every one of them at least once.
    """
    by_score = score.argsort(stable=True)
    order = by_score[frame[by_score].argsort(stable=True)]
    sizes = frame.bincount(minlength=len(counts))
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[frame[order]]
    wanted = torch.tensor(counts, device=order.device)[frame[order]]
    return order[rank < wanted].sort().values
