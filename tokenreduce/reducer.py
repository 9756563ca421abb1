"""Frames' features in, exactly the budgeted visual tokens out, newlines woven in.

Features arrive in chunks of frames; how many frames there are is known when the last has come.
What is held meanwhile is bounded. Knows neither the model nor the video they come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from tokenreduce.budget import Layout, NewlineKeep, Share, allot, newlines_within
from tokenreduce.holding import AT_ONCE, Clip, Frames, Held, Way
from tokenreduce.paradigm import Method
from tokenreduce.seen import Evidence
from tokenreduce.tokens import Tokens
from tokenreduce.weaving import raw_places, weave

RESIDENT = 16_384
"""Tokens held in any case before anything is reduced while frames are still coming: 64 frames of
LLaVA-Video and more. 112 MiB of them at a 7B's width in half precision."""


@dataclass
class Reducer:
    """Reduces the features of one video to `budget` tokens, from chunks of frames as they come.

    one      the layout of a single frame, as `ModelSpec.layout(1)` gives it
    budget   visual tokens wanted, newlines included; at least 1. Where it depends on how many
             frames come, the most it can be; `finish` is told then
    method   acts at `site`; None where the budget holds all
    newline  (d,) the newline embedding, or None where the layout has none
    site     "frames": on each frame by itself, even shares; "clip": on the whole video at once
    resident  tokens that are held as they are. Beyond that, and twice the budget, all that is held
             is reduced by about half: frames along the method's own way, so that a method which
             goes by halves, as AIM, ends where it would have ended; a clip anew each time
    """

    one: Layout
    budget: int
    method: Method | None
    newline: Tensor | None
    newlines: NewlineKeep = "share"
    seed: int = 0
    site: Literal["frames", "clip"] = "frames"
    resident: int = RESIDENT
    _waiting: list[tuple[Tensor, Evidence]] = field(default_factory=list)
    _frames: int = 0

    def __post_init__(self) -> None:
        way = Way(self.one, self.method, self.seed)
        most = max(self.resident, 2 * self.budget)
        # A method that moves nothing across frames needs no clip.
        self._held = Clip(way, most) if self.site == "clip" and self.method else Frames(way, most)

    @property
    def frames(self) -> int:
        """That have come."""
        return self._frames + self._count_waiting()

    def add(self, features: Tensor, evidence: Evidence | None = None) -> None:
        """features: (f, rows * columns, d), the next f frames in time order; evidence: of them."""
        if features.shape[1] != self.one.rows * self.one.columns:
            raise ValueError(
                f"{features.shape[1]} tokens a frame, not {self.one.rows} x {self.one.columns}"
            )
        shown, start = evidence or Evidence(), 0
        while start < features.shape[0]:
            room = self._held.group - self._count_waiting()
            part = torch.arange(start, min(start + room, features.shape[0]))
            self._waiting.append((features[start : start + len(part)], shown.rows(part)))
            start += len(part)
            if len(part) == room:
                self._pass_on()

    def resume(self, held: Held) -> None:
        """Frames that were reduced before, all alike and along the method's own way to fewer, in
        place of their features; before any other."""
        if self._frames or self._waiting or isinstance(self._held, Clip):
            raise ValueError("a reduction of frames is resumed before anything else comes")
        self._held.add(held)
        self._frames = held.tokens.rows

    def finish(self, budget: int | None = None) -> Tokens:
        """All frames as one row of exactly min(budget, available) tokens, places in raster order
        with newlines counted: those of the sequence an unreduced model would read. budget: no more
        than was announced. Raises ValueError if it is, or no frame has come."""
        wanted = self.budget if budget is None else budget
        if wanted > self.budget:
            raise ValueError(f"a budget of {wanted} where {self.budget} was announced")
        if self._waiting:
            self._pass_on()
        layout = replace(self.one, frames=self._frames)
        held, self._held = self._held, Frames(Way(self.one, None), 0)
        if isinstance(held, Clip):
            return self._of_clip(held, layout, wanted)
        return self._of_frames(held, layout, wanted)

    def _count_waiting(self) -> int:
        return sum(features.shape[0] for features, _ in self._waiting)

    def _pass_on(self) -> None:
        """The frames that wait, to those that are held."""
        features = torch.cat([part for part, _ in self._waiting])
        evidence = Evidence.cat([shown for _, shown in self._waiting])
        self._waiting.clear()
        self._held.add(Held.fresh(features, evidence, self._frames, self.method))
        self._frames += features.shape[0]

    def _of_clip(self, held: Clip, layout: Layout, budget: int) -> Tokens:
        """Where the frames that keep tokens have no room for all newlines, more tokens stay."""
        given = allot(layout, budget, self.newlines)
        wanted = sum(share.newlines for share in given.shares)
        features = sum(share.features for share in given.shares)
        while True:
            kept = self._placed(held.reduced_to(features), layout)
            if budget >= layout.available:  # each where it always was
                ends = self._ends(kept, layout, given.shares)
            else:
                ends = newlines_within(layout, kept.place[0].tolist(), wanted)
            if len(ends) == wanted:
                break
            features, wanted = features + wanted - len(ends), len(ends)
        return weave(kept, ends + [layout.available - 1] * given.trailing, self.newline, layout)

    def _placed(self, tokens: Tokens, layout: Layout) -> Tokens:
        """Their places counted with newlines."""
        whole = layout.rows * layout.columns
        return replace(
            tokens, place=raw_places(layout, tokens.place // whole, tokens.place % whole)
        )

    def _of_frames(self, held: Frames, layout: Layout, budget: int) -> Tokens:
        """Rows get even shares, be they frames or, where there are far more frames than tokens,
        runs of them that have become one token already."""
        every = held.all()
        given = allot(replace(layout, frames=every.tokens.rows), budget, self.newlines)
        groups: dict[tuple[int, int], list[Share]] = {}
        for share in given.shares:
            groups.setdefault((share.stop - share.start, share.features), []).append(share)
        parts = [self._group(held.way, every, group, layout) for group in groups.values()]
        kept = Tokens.cat(parts).in_order()
        ends = self._ends(kept, layout, given.shares)
        return weave(kept, ends + [layout.available - 1] * given.trailing, self.newline, layout)

    def _group(self, way: Way, every: Held, shares: list[Share], layout: Layout) -> Tokens:
        """The shares of one shape, reduced together, as one row: same length, same count kept."""
        length = shares[0].stop - shares[0].start
        index = torch.tensor([f for s in shares for f in range(s.start, s.stop)])
        parts = index.to(every.frame.device).split(AT_ONCE)
        done = Held.cat([way.thinned(every.rows(part), shares[0].features) for part in parts])
        if length > 1:  # below one token a frame: each run of adjacent frames becomes one token
            done = way.joined(done, len(shares), length)
        frame = done.frame.unsqueeze(1).expand_as(done.tokens.place)
        place = raw_places(layout, frame, done.tokens.place)
        return replace(done.tokens, place=place).as_one_row()

    def _ends(self, kept: Tokens, layout: Layout, shares: tuple[Share, ...]) -> list[int]:
        """Where the newlines of each share stand."""
        place, ends = kept.place[0].tolist(), []
        start = 0
        for share in shares:
            own = place[start : start + share.features]
            ends += newlines_within(layout, own, share.newlines)
            start += share.features
        return ends
