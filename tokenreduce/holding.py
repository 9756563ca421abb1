"""Visual tokens held while more frames come: as they are, until there are too many of them.

Then all that is held goes one step further, and what comes later takes the same steps, so that an
early frame fares like a late one, and memory does not grow with the video. Frames go through in
groups of a fixed size: how they were handed over changes no bit. They are kept in few long tensors:
thousands of small ones, made between the large ones that come and go with every chunk, would leave
gaps in the heap that nothing fits into. Knows no newlines and no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.paradigm import Method, reduce, reduced
from tokenreduce.seen import Evidence, Seen
from tokenreduce.tokens import Tokens

AT_ONCE = 16
"""Frames reduced together: scratch memory does not grow with the video."""


@dataclass(frozen=True)
class Held:
    """b frames, or runs of frames that are one token by now, of n tokens each.

    tokens    places count within a frame, newlines not counted
    metric    (b, n, e); the features themselves, or what a method measures on in their stead
    evidence  of the encoder, of these tokens
    frame     (b,) int64, of the video, that each row's places are in
    """

    tokens: Tokens
    metric: Tensor
    evidence: Evidence
    frame: Tensor

    @classmethod
    def fresh(cls, x: Tensor, evidence: Evidence, first: int, method: Method | None) -> Held:
        """Frames from number `first` on, nothing reduced. x: (f, n, d)."""
        metric = x
        if method is not None and "keys" in method.needs and evidence.keys is not None:
            metric = evidence.keys.mean(dim=2)
        frame = torch.arange(first, first + x.shape[0], device=x.device)
        return cls(Tokens.fresh(x), metric, evidence, frame)

    @classmethod
    def cat(cls, parts: Sequence[Held]) -> Held:
        """All rows of the parts, which have the same count."""
        if len(parts) == 1:
            return parts[0]
        tokens = [part.tokens for part in parts]
        every = Tokens(
            torch.cat([t.x for t in tokens]),
            torch.cat([t.size for t in tokens]),
            torch.cat([t.place for t in tokens]),
        )
        on_features = all(part.metric is part.tokens.x for part in parts)
        return cls(
            every,
            every.x if on_features else torch.cat([part.metric for part in parts]),
            Evidence.cat([part.evidence for part in parts]),
            torch.cat([part.frame for part in parts]),
        )

    def rows(self, index: Tensor) -> Held:
        """Those at `index` (b',) alone."""
        tokens = Tokens(
            *(part[index] for part in (self.tokens.x, self.tokens.size, self.tokens.place))
        )
        metric = tokens.x if self.metric is self.tokens.x else self.metric[index]
        return Held(tokens, metric, self.evidence.rows(index), self.frame[index])


@dataclass(frozen=True)
class Way:
    """How frames of one layout are reduced by themselves. one: the layout of a frame."""

    one: Layout
    method: Method | None
    seed: int = 0

    @property
    def raw(self) -> int:
        """Tokens of a frame, newlines not counted."""
        return self.one.rows * self.one.columns

    def levels(self) -> tuple[int, ...]:
        """Counts at which a frame may wait: those on the method's own way to one token, or where it
        has no stops on its way, halves."""
        if self.method is None:
            return ()
        own = tuple(self.method.rounds(self.raw, 1))
        if len(own) > 1:
            return own
        counts = [self.raw]
        while counts[-1] > 1:
            counts.append((counts[-1] + 1) // 2)
        return tuple(counts[1:])

    def thinned(self, held: Held, keep: int) -> Held:
        """To `keep` tokens a frame, AT_ONCE frames at a time."""
        if keep >= held.tokens.count:
            return held
        rows = torch.arange(held.tokens.rows, device=held.frame.device)
        parts = [held] if len(rows) <= AT_ONCE else map(held.rows, rows.split(AT_ONCE))
        return Held.cat([self._thinned(part, keep) for part in parts])

    def _thinned(self, held: Held, keep: int) -> Held:
        if self.method is None:
            raise ValueError(f"{held.tokens.count} tokens to {keep}: no method to reduce them")
        grid = Layout(1, self.one.rows, self.one.columns)
        seen = Seen(
            held.tokens,
            held.metric,
            grid,
            evidence=held.evidence,
            seed=self.seed,
            rows=held.frame,
        )
        left = reduced(self.method, seen, keep, self.raw)
        return replace(
            held, tokens=left.tokens, metric=left.metric, evidence=left.evidence or Evidence()
        )

    def joined(self, held: Held, rows: int, length: int) -> Held:
        """rows * length frames of one token each to `rows` tokens, one for each run of frames.

        By the method, if positions, features or chance are all it looks at; else adjacent frames
        merge, for what the encoder showed of one frame says nothing about its neighbour. What was
        merged stands where the first of its frames stood.
        """
        needs = self.method is None or self.method.needs
        joining = AimMerge() if needs or self.method is None else self.method
        x, places = held.tokens.x.view(rows, length, -1), held.tokens.place.view(rows, length)
        order = torch.arange(length, device=places.device).expand(rows, length)
        run = Tokens(x, held.tokens.size.view(rows, length), order)
        # Told by both ends, as what is left of one run may be an end of the next, longer one.
        ends = held.frame.view(rows, length)[:, [0, -1]]
        named = (ends[:, 0] << 32) + ends[:, 1]
        seen = Seen(run, x, Layout(length, 1, 1), seed=self.seed, rows=named)
        left = reduce(joining, seen, 1)
        merged = left.size > run.size.gather(1, left.place)
        first = left.place.masked_fill(merged, 0)
        at = first + torch.arange(rows, device=places.device).unsqueeze(1) * length
        tokens = replace(left, place=places.gather(1, first))
        kept = held.rows(at.squeeze(1))
        return Held(tokens, tokens.x, kept.evidence, kept.frame)


@dataclass
class Frames:
    """Each frame reduced by itself. most: tokens held before all go a step further."""

    way: Way
    most: int

    def __post_init__(self) -> None:
        self._held: list[Held] = []
        self._levels = list(self.way.levels())
        self._taken: list[int] = []  # counts a frame was brought to; 0: two rows became one

    @property
    def group(self) -> int:
        """Frames that go through together: whole runs."""
        return max(AT_ONCE, 1 << self._taken.count(0))

    def add(self, group: Held) -> None:
        for step in self._taken:
            group = self._step(group, step)
        self._keep(group)
        while self.way.method is not None and self._count() > self.most:
            step = self._levels.pop(0) if self._levels else 0
            self._taken.append(step)
            # Runs are joined across groups: each may be one run by now.
            among = self._held if step else [Held.cat(self._held)]
            self._held = [self._step(held, step) for held in among]

    def all(self) -> Held:
        return Held.cat(self._held)

    def _keep(self, group: Held) -> None:
        """Beside what came before it, once there is as much of both: a token is copied as often as
        what is held can double, and the parts held stay as few."""
        self._held.append(group)
        while len(self._held) > 1 and self._held[-2].tokens.rows <= self._held[-1].tokens.rows:
            last = self._held.pop()
            self._held[-1] = Held.cat([self._held[-1], last])

    def _count(self) -> int:
        return sum(held.tokens.rows * held.tokens.count for held in self._held)

    def _step(self, held: Held, step: int) -> Held:
        if step:
            return self.way.thinned(held, step)
        rows = held.tokens.rows
        pairs = torch.arange(rows // 2 * 2, device=held.frame.device)
        parts = [self.way.joined(held.rows(pairs), rows // 2, 2)] if rows > 1 else []
        if rows % 2:  # the last of the video is left alone
            parts.append(held.rows(pairs.new_tensor([rows - 1])))
        return Held.cat([replace(part, metric=part.tokens.x) for part in parts])


@dataclass
class Clip:
    """The whole video as one row. most: tokens held before they are brought to half of it."""

    way: Way
    most: int

    def __post_init__(self) -> None:
        self._seen: Seen | None = None
        self._began = 0

    group = AT_ONCE

    def add(self, group: Held) -> None:
        """Frames of `group` in order of time, after all that came before."""
        frames = int(group.frame[-1]) + 1
        grid = replace(self.way.one, frames=frames, newline="no_token")
        start = (group.frame * grid.per_frame).unsqueeze(1)
        tokens = replace(group.tokens, place=group.tokens.place + start).as_one_row()
        metric = group.metric.flatten(0, 1).unsqueeze(0)
        evidence = group.evidence.as_one_row()
        if self._seen is not None:
            before = self._seen
            tokens = Tokens.cat([before.tokens, tokens])
            metric = torch.cat([before.metric, metric], dim=1)
            evidence = (before.evidence or Evidence()).beside(evidence)
        if group.metric is group.tokens.x:
            metric = tokens.x
        self._seen = Seen(tokens, metric, grid, evidence=evidence, seed=self.way.seed)
        if self.way.method is not None and tokens.count > self.most:
            self._seen = reduced(self.way.method, self._seen, self.most // 2, tokens.count)

    def reduced_to(self, keep: int) -> Tokens:
        """One row of `keep`, or of all there are, places counting without newlines."""
        if self._seen is None:
            raise ValueError("no frame has come")
        if self.way.method is None or keep >= self._seen.tokens.count:
            return self._seen.tokens
        return reduce(self.way.method, self._seen, keep)
