"""Frames' features in, exactly the budgeted visual tokens out, newlines woven in.

Features arrive in chunks of frames; how many frames there are is known when the last has come.
Knows neither the model nor the video they come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenreduce.budget import Layout, NewlineKeep, Share, allot, newline_rows
from tokenreduce.paradigm import Method, reduce
from tokenreduce.tokens import Grid, Seen, Tokens


@dataclass
class Reducer:
    """Collects the features of one video and reduces them to `budget` tokens.

    one      the layout of a single frame, as `ModelSpec.layout(1)` gives it
    budget   visual tokens wanted, newlines included; at least 1
    method   acts at the site "frames", on each frame by itself; None where the budget holds all
    newline  (d,) the newline embedding, or None where the layout has none
    """

    one: Layout
    budget: int
    method: Method | None
    newline: Tensor | None
    newlines: NewlineKeep = "share"
    seed: int = 0
    _chunks: list[Tensor] = field(default_factory=list)

    def add(self, features: Tensor) -> None:
        """features: (f, rows * columns, d), the next f frames in time order."""
        if features.shape[1] != self.one.rows * self.one.columns:
            raise ValueError(
                f"{features.shape[1]} tokens a frame, not {self.one.rows} x {self.one.columns}"
            )
        self._chunks.append(features)

    def finish(self) -> Tokens:
        """All frames as one row of exactly min(budget, available) tokens, places in raster order
        with newlines counted: those of the sequence an unreduced model would read."""
        features = torch.cat(self._chunks)
        self._chunks.clear()
        layout = Layout(features.shape[0], self.one.rows, self.one.columns, self.one.newline)
        allotment = allot(layout, self.budget, self.newlines)
        groups: dict[tuple[int, int], list[Share]] = {}
        for share in allotment.shares:
            groups.setdefault((share.stop - share.start, share.features), []).append(share)
        parts = [self._group(features, shares, layout) for shares in groups.values()]
        return self._weave(parts, layout, allotment.trailing)

    def _group(self, features: Tensor, shares: list[Share], layout: Layout) -> _Part:
        """The shares of one shape, reduced together: same run of frames, same count kept."""
        length = shares[0].stop - shares[0].start
        index = torch.tensor([f for s in shares for f in range(s.start, s.stop)])
        tokens = Tokens.fresh(features[index.to(features.device)])
        grid = Grid(1, layout.rows, layout.columns)
        keep = shares[0].features
        tokens = self._reduce(tokens, grid, keep)
        frame = index.to(tokens.place.device).unsqueeze(1).expand_as(tokens.place)
        tokens = Tokens(tokens.x, tokens.size, _raw(layout, frame, tokens.place))
        if length > 1:  # below one token a frame: each run of adjacent frames becomes one row
            rows, d = len(shares), tokens.x.shape[-1]
            places = tokens.place.view(rows, length)
            run = Tokens(
                tokens.x.view(rows, length, d),
                tokens.size.view(rows, length),
                torch.arange(length, device=places.device).expand(rows, length),
            )
            tokens = self._reduce(run, Grid(length, 1, 1), 1)
            tokens = Tokens(tokens.x, tokens.size, places.gather(1, tokens.place))
        return _Part(tokens, shares)

    def _reduce(self, tokens: Tokens, grid: Grid, keep: int) -> Tokens:
        if keep == tokens.count:
            return tokens
        if self.method is None:
            raise ValueError(f"{tokens.count} tokens to {keep}: no method to reduce them")
        return reduce(self.method, Seen(tokens, tokens.x, grid, seed=self.seed), keep)

    def _weave(self, parts: list[_Part], layout: Layout, trailing: int) -> Tokens:
        """One row in raster order: the features of all parts and the newlines they keep."""
        x = torch.cat([part.tokens.x.flatten(0, 1) for part in parts])
        size = torch.cat([part.tokens.size.flatten() for part in parts])
        place = torch.cat([part.tokens.place.flatten() for part in parts])
        ends = [p for part in parts for p in part.newline_places(layout)]
        ends += [layout.available - 1] * trailing
        if ends:
            if self.newline is None:
                raise ValueError(f"a {layout.newline!r} layout needs the newline embedding")
            x = torch.cat([x, self.newline.to(x).expand(len(ends), -1)])
            size = torch.cat([size, size.new_ones(len(ends))])
            place = torch.cat([place, torch.tensor(ends, device=place.device)])
        return Tokens(x.unsqueeze(0), size.unsqueeze(0), place.unsqueeze(0)).in_order()


@dataclass(frozen=True)
class _Part:
    """Reduced rows, places already in the raw sequence, and the share each row is of."""

    tokens: Tokens
    shares: list[Share]

    def newline_places(self, layout: Layout) -> list[int]:
        if all(share.newlines == 0 for share in self.shares):
            return []
        if layout.newline == "frame":
            return [s.stop * layout.per_frame - 1 for s in self.shares if s.newlines]
        wide = layout.columns + 1
        ends = []
        for share, row in zip(self.shares, self.tokens.place.tolist(), strict=True):
            first = share.start * layout.per_frame
            rows = sorted({(p - first) // wide for p in row})
            ends += [first + (r + 1) * wide - 1 for r in newline_rows(rows, share.newlines)]
        return ends


def _raw(layout: Layout, frame: Tensor, place: Tensor) -> Tensor:
    """Place in a frame, newlines not counted, to place in the raw sequence of the video."""
    if layout.newline == "grid":
        place = place // layout.columns * (layout.columns + 1) + place % layout.columns
    return frame * layout.per_frame + place
