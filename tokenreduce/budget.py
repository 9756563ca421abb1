"""How a budget of visual tokens is shared out; pure counting, knows nothing about features.

A budget is an exact number of tokens, newline embeddings included, that enter the first layer of
the LLM. Frames get even shares; how many newlines a frame keeps follows from its share alone, so
that any budget is met exactly whatever the merging does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Newline = Literal["grid", "frame", "one_token", "no_token"]
"""Where a checkpoint was trained to see newline embeddings: after each row, after each frame, once
at the end, or nowhere (`mm_newline_position` of the LLaVA-Video checkpoints)."""

NewlineKeep = Literal["share", "frame", "none"]
"""Which newlines of a "grid" checkpoint survive a reduction: the share of the frame's allotment,
one a frame, or none. Without a reduction all survive under every rule."""


@dataclass(frozen=True)
class Layout:
    """Visual tokens of a video before any reduction: frames of rows x columns, and newlines."""

    frames: int
    rows: int
    columns: int
    newline: Newline = "no_token"

    @property
    def newlines_per_frame(self) -> int:
        return {"grid": self.rows, "frame": 1, "one_token": 0, "no_token": 0}[self.newline]

    @property
    def per_frame(self) -> int:
        """Tokens of one frame, its newlines included."""
        return self.rows * self.columns + self.newlines_per_frame

    @property
    def trailing(self) -> int:
        """Newlines after the last frame."""
        return int(self.newline == "one_token")

    @property
    def available(self) -> int:
        """The raw count: what an unreduced model would read."""
        return self.frames * self.per_frame + self.trailing


@dataclass(frozen=True)
class Share:
    """What frames [start, stop) leave together: `features` tokens, then `newlines`.

    More than one frame only where the budget is below one token a frame.
    """

    start: int
    stop: int
    features: int
    newlines: int


@dataclass(frozen=True)
class Allotment:
    """Who gets what of a budget: one Share per frame or run of frames, and the last newline."""

    shares: tuple[Share, ...]
    trailing: int

    @property
    def total(self) -> int:
        return sum(s.features + s.newlines for s in self.shares) + self.trailing


def allot(layout: Layout, budget: int, rule: NewlineKeep = "share") -> Allotment:
    """Shares out exactly min(budget, layout.available) tokens.

    The remainder of an uneven division is spread evenly over the video. Below one token a frame,
    runs of adjacent frames share one. Raises ValueError for a budget or a layout below 1.
    """
    if budget < 1:
        raise ValueError(f"{budget = }: at least one visual token is needed")
    if layout.frames < 1:
        raise ValueError(f"{layout.frames = }: at least one frame is needed")
    total = min(budget, layout.available)
    # One token is one that shows something; the newline at the end comes second.
    trailing = layout.trailing if total > layout.trailing else 0
    total -= trailing
    if total < layout.frames:
        runs = _cuts(layout.frames, total)
        shares = tuple(Share(a, b, 1, 0) for a, b in pairwise(runs))
    else:
        cuts = _cuts(total, layout.frames)
        shares = tuple(
            _of_frame(layout, f, cuts[f + 1] - cuts[f], rule) for f in range(layout.frames)
        )
    return Allotment(shares, trailing)


def _cuts(total: int, parts: int) -> list[int]:
    """parts + 1 ascending bounds that divide `total` as evenly as integers can."""
    return [i * total // parts for i in range(parts + 1)]


def _of_frame(layout: Layout, frame: int, allotted: int, rule: NewlineKeep) -> Share:
    newlines = newlines_of(layout, allotted, rule)
    return Share(frame, frame + 1, allotted - newlines, newlines)


def newlines_of(layout: Layout, allotted: int, rule: NewlineKeep = "share") -> int:
    """Newlines among the `allotted` tokens of one frame.

    "share" is floor(allotted / (columns + 1)): 210 -> 14, 105 -> 7, 52 -> 3, 26 -> 1 on a
    14 x 14 grid, the counts of AIM's own per-frame rounds (196, 98, 49, 25 features).
    """
    if allotted == layout.per_frame:
        return layout.newlines_per_frame
    if layout.newline == "frame":
        wanted = int(allotted > 1)
    elif layout.newline != "grid" or rule == "none":
        wanted = 0
    elif rule == "frame":
        wanted = int(allotted > 1)
    else:
        wanted = allotted // (layout.columns + 1)
    # Never fewer newlines than leave room for the features there are.
    return max(wanted, allotted - layout.rows * layout.columns)


def newline_rows(rows: list[int], newlines: int) -> list[int]:
    """The `newlines` of the ascending `rows` that keep theirs: evenly spread, the last one always.

    >>> newline_rows([0, 2, 3, 5], 2)
    [2, 5]
    """
    return [rows[(i + 1) * len(rows) // newlines - 1] for i in range(newlines)]


def newlines_within(layout: Layout, places: list[int], newlines: int) -> list[int]:
    """Raw places of `newlines` newlines among kept tokens at the ascending raw `places`.

    Frames get them in proportion to the tokens they keep, never more than the rows these lie in;
    within a frame they are evenly spread over those rows. Fewer where there is no room for all.
    """
    if newlines == 0:
        return []
    held: dict[int, list[int]] = {}
    for place in places:
        held.setdefault(place // layout.per_frame, []).append(place % layout.per_frame)
    if layout.newline == "frame":
        frames = sorted(sorted(held, key=lambda f: -len(held[f]))[:newlines])
        return [(f + 1) * layout.per_frame - 1 for f in frames]
    wide, ends = layout.columns + 1, []
    rows = {f: sorted({p // wide for p in within}) for f, within in held.items()}
    counts = [len(within) for within in held.values()]
    most = [len(rows[f]) for f in held]
    shares = in_proportion(min(newlines, sum(most)), counts, most)
    for (f, own), share in zip(rows.items(), shares, strict=True):
        if share:
            ends += [f * layout.per_frame + (r + 1) * wide - 1 for r in newline_rows(own, share)]
    return ends


def in_proportion(total: int, weights: Sequence[float], most: Sequence[int]) -> list[int]:
    """`total` shared out as whole numbers in proportion to `weights`, part i at most most[i].

    Largest remainders first, on a tie the earlier part; what a full part cannot take goes to the
    others in proportion. Raises ValueError if `most` does not hold that many.

    >>> in_proportion(7, [1, 1, 2], [9, 9, 3])
    [2, 2, 3]
    """
    if total > sum(most):
        raise ValueError(f"{total} do not fit into {sum(most)}")
    shares, open_ = [0] * len(weights), [i for i, m in enumerate(most) if m > 0]
    left = total
    while left:
        weight = sum(weights[i] for i in open_)
        ideal = {i: left * weights[i] / weight if weight else left / len(open_) for i in open_}
        full = [i for i in open_ if ideal[i] >= most[i] - shares[i]]
        if full:
            for i in full:
                left -= most[i] - shares[i]
                shares[i] = most[i]
            open_ = [i for i in open_ if i not in full]
            continue
        floors = {i: int(ideal[i]) for i in open_}
        rest = left - sum(floors.values())
        by_remainder = sorted(open_, key=lambda i: (floors[i] - ideal[i], i))
        for rank, i in enumerate(by_remainder):
            shares[i] += floors[i] + int(rank < rest)
        left = 0
    return shares
