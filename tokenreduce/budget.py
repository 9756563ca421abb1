"""How a budget of visual tokens is shared out; pure counting, knows nothing about features.

A budget is an exact number of tokens, newline embeddings included, that enter the first layer of
the LLM. Frames get even shares; how many newlines a frame keeps follows from its share alone, so
that any budget is met exactly whatever the merging does.
"""

from __future__ import annotations

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
    newline: Newline

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
