"""Frames' features in, exactly the budgeted visual tokens out, newlines woven in.

Features arrive in chunks of frames; how many frames there are is known when the last has come.
Knows neither the model nor the video they come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from tokenreduce.budget import Layout, NewlineKeep, Share, allot, newlines_within
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.paradigm import Method, reduce
from tokenreduce.seen import Evidence, Seen
from tokenreduce.tokens import Tokens
from tokenreduce.weaving import raw_places, weave

_AT_ONCE = 16
"""Frames reduced together: scratch memory does not grow with the video."""


@dataclass
class Reducer:
    """Collects the features of one video and reduces them to `budget` tokens.

    one      the layout of a single frame, as `ModelSpec.layout(1)` gives it
    budget   visual tokens wanted, newlines included; at least 1
    method   acts at `site`; None where the budget holds all
    newline  (d,) the newline embedding, or None where the layout has none
    site     "frames": on each frame by itself, even shares; "clip": on the whole video at once
    """

    one: Layout
    budget: int
    method: Method | None
    newline: Tensor | None
    newlines: NewlineKeep = "share"
    seed: int = 0
    site: Literal["frames", "clip"] = "frames"
    _chunks: list[Tensor] = field(default_factory=list)
    _shown: list[Evidence] = field(default_factory=list)

    def add(self, features: Tensor, evidence: Evidence | None = None) -> None:
        """features: (f, rows * columns, d), the next f frames in time order; evidence: of them."""
        if features.shape[1] != self.one.rows * self.one.columns:
            raise ValueError(
                f"{features.shape[1]} tokens a frame, not {self.one.rows} x {self.one.columns}"
            )
        self._chunks.append(features)
        self._shown.append(evidence or Evidence())

    def finish(self) -> Tokens:
        """All frames as one row of exactly min(budget, available) tokens, places in raster order
        with newlines counted: those of the sequence an unreduced model would read."""
        features, evidence = torch.cat(self._chunks), Evidence.cat(self._shown)
        self._chunks.clear()
        self._shown.clear()
        layout = replace(self.one, frames=features.shape[0])
        allotment = allot(layout, self.budget, self.newlines)
        if self.site == "clip" and self.method is not None and self.budget < layout.available:
            kept = self._clip(features, evidence, layout, sum(s.features for s in allotment.shares))
            wanted = sum(share.newlines for share in allotment.shares)
            ends = newlines_within(layout, kept.place[0].tolist(), wanted)
        else:
            groups: dict[tuple[int, int], list[Share]] = {}
            for share in allotment.shares:
                groups.setdefault((share.stop - share.start, share.features), []).append(share)
            parts = [self._group(features, evidence, g, layout) for g in groups.values()]
            kept = Tokens.cat(parts).in_order()
            ends = self._ends(kept, layout, allotment.shares)
        ends += [layout.available - 1] * allotment.trailing
        return weave(kept, ends, self.newline, layout)

    def _clip(self, features: Tensor, evidence: Evidence, layout: Layout, keep: int) -> Tokens:
        """One row of `keep` features of all frames, places in the raw sequence."""
        tokens = Tokens.fresh(features.flatten(0, 1).unsqueeze(0))
        grid = replace(layout, newline="no_token")
        tokens = self._reduce(tokens, evidence.as_one_row(), grid, keep)
        per_frame = grid.per_frame
        return replace(
            tokens, place=raw_places(layout, tokens.place // per_frame, tokens.place % per_frame)
        )

    def _group(
        self, features: Tensor, evidence: Evidence, shares: list[Share], layout: Layout
    ) -> Tokens:
        """The shares of one shape, reduced together, as one row: same length, same count kept."""
        length = shares[0].stop - shares[0].start
        index = torch.tensor([f for s in shares for f in range(s.start, s.stop)])
        grid = Layout(1, layout.rows, layout.columns)
        done = []
        for part in index.to(features.device).split(_AT_ONCE):
            tokens = Tokens.fresh(features[part])
            tokens = self._reduce(tokens, evidence.rows(part), grid, shares[0].features)
            frame = part.unsqueeze(1).expand_as(tokens.place)
            done.append(replace(tokens, place=raw_places(layout, frame, tokens.place)))
        tokens = Tokens(*(torch.cat([getattr(t, k) for t in done]) for k in ("x", "size", "place")))
        if length > 1:  # below one token a frame: each run of adjacent frames becomes one token
            tokens = _joined(self.method, tokens, len(shares), length, self.seed)
        return tokens.as_one_row()

    def _reduce(self, tokens: Tokens, evidence: Evidence, grid: Layout, keep: int) -> Tokens:
        if keep == tokens.count:
            return tokens
        if self.method is None:
            raise ValueError(f"{tokens.count} tokens to {keep}: no method to reduce them")
        metric = tokens.x
        if "keys" in self.method.needs and evidence.keys is not None:
            metric = evidence.keys.mean(dim=2)
        return reduce(
            self.method, Seen(tokens, metric, grid, evidence=evidence, seed=self.seed), keep
        )

    def _ends(self, kept: Tokens, layout: Layout, shares: tuple[Share, ...]) -> list[int]:
        """Where the newlines of each share stand."""
        place, ends = kept.place[0].tolist(), []
        start = 0
        for share in shares:
            own = place[start : start + share.features]
            ends += newlines_within(layout, own, share.newlines)
            start += share.features
        return ends


def _joined(method: Method | None, tokens: Tokens, rows: int, length: int, seed: int) -> Tokens:
    """rows * length frames of one token each to `rows` tokens, one for each run of frames.

    By the method, if positions, features or chance are all it looks at; else adjacent frames
    merge, for what the encoder showed of one frame says nothing about its neighbour.
    """
    joining = AimMerge() if method is None or method.needs else method
    places = tokens.place.view(rows, length)
    x = tokens.x.view(rows, length, -1)
    order = torch.arange(length, device=places.device).expand(rows, length)
    run = Tokens(x, tokens.size.view(rows, length), order)
    left = reduce(joining, Seen(run, x, Layout(length, 1, 1), seed=seed), 1)
    return Tokens(left.x, left.size, places.gather(1, left.place))
