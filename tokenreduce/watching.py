"""Decodes the frames a plan wants and hands them on, a chunk at a time, as they come.

Decoding goes on in its child while a chunk is being encoded. Knows nothing about what becomes of
the frames, nor about questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from tokenreduce.clock import Clock
from tokenreduce.plan import Plan
from tokenreduce.sheet import Sheet
from tokenreduce.subject import Footage
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import End, Frame, Repeat, Request

CHUNK = 16
"""Frames handed to the tower at once: a multiple of every family's own batch, so that how features
are grouped, and with it their last bits, depends on the model alone."""


@dataclass(frozen=True)
class Watched:
    """The frames of a video that were looked at.

    seconds   of each
    stands    for so many sampled frames each stands: itself, and those that repeat it
    every     presentation time of every sampled frame, looked at or not
    wanted    frames that were to be sampled
    reached_seconds  of the last one that was sampled; complete: the file did not end before
    """

    seconds: tuple[float, ...]
    stands: tuple[int, ...]
    every: tuple[float, ...]
    wanted: int
    complete: bool = True
    reached_seconds: float = 0.0

    @property
    def sampled(self) -> int:
        return len(self.every)

    @property
    def repeats(self) -> int:
        """Sampled, and not looked at."""
        return len(self.every) - len(self.seconds)

    @property
    def until(self) -> tuple[float, ...]:
        """Of the last sampled frame that each stands for."""
        return tuple(self.every[last - 1] for last in accumulate(self.stands))

    def frames(self, plan: Plan) -> int:
        """That the model is shown: where the plan fills in, repeats too."""
        return self.sampled if plan.fills_in else len(self.seconds)

    def shown(self, plan: Plan) -> tuple[float, ...]:
        """Their times."""
        return self.every if plan.fills_in else self.seconds


def watch(
    decoder: Decoder,
    subject: Footage,
    plan: Plan,
    size: int,
    clock: Clock,
    take: Callable[[Tensor, Sequence[int]], None],
    sheet: Sheet | None = None,
    *,
    last: Callable[[], None] | None = None,
    pinned: bool = False,
) -> Watched:
    """Gives `take` uint8 (f, size, size, 3), at most CHUNK frames at a time, in order of time, and
    for how many sampled frames each stands.

    sheet: gets each of them, too. last: called after the last of them. pinned: in page-locked
    memory, from which a GPU copies while something else goes on. Raises InputError if no frame can
    be decoded.
    """
    count = plan.frames
    if plan.fps is not None:
        # One more than was counted may fit where rates are rounded: no reason to spread them out.
        count = plan.frames + 2 if plan.most is None else plan.most
    request = Request(
        count,
        size,
        plan.seek,
        plan.decoder,
        plan.start_seconds,
        plan.stop_seconds,
        plan.fps,
        plan.skip,
    )
    seen = _Seen()
    clock.begin("decode", plan.frames)
    clock.begin("encode", plan.frames)
    source = decoder.stream(subject.probe.path, request, subject.probe)
    for frames, stands in _chunks(source, seen, clock):
        with clock.within("encode"):
            take(_stacked(frames, pinned=pinned), stands)
        if sheet is not None:
            for frame in frames:
                sheet.add(frame.seconds, frame.pixels)
        clock.advance("encode", sum(seen.stands[: seen.given]))
    clock.end("decode")
    if last is not None:
        with clock.within("encode"):
            last()
    clock.end("encode")
    watched = Watched(
        tuple(seen.seconds),
        tuple(seen.stands),
        tuple(seen.every),
        seen.end.wanted,
        seen.end.complete,
        seen.end.reached_seconds,
    )
    tell(watched, plan, clock)
    return watched


def _stacked(frames: Sequence[Frame], *, pinned: bool) -> Tensor:
    """uint8 (f, size, size, 3)"""
    shape = (len(frames), *frames[0].pixels.shape)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    np.stack([frame.pixels for frame in frames], out=pixels.numpy())
    return pixels


@dataclass
class _Seen:
    """What has come so far."""

    seconds: list[float] = field(default_factory=list)
    stands: list[int] = field(default_factory=list)
    every: list[float] = field(default_factory=list)
    given: int = 0
    end: End = field(default_factory=lambda: End(0, False, 0.0))


def _chunks(
    source: Iterator[Frame | Repeat | End], seen: _Seen, clock: Clock
) -> Iterator[tuple[list[Frame], list[int]]]:
    """A chunk is given once it is known for how many frames its last one stands."""
    frames: list[Frame] = []
    while True:
        with clock.within("decode"):
            item = next(source, None)
        if frames and (item is None or (isinstance(item, Frame) and len(frames) == CHUNK)):
            clock.advance("decode", len(seen.every))
            seen.given += len(frames)
            yield frames, seen.stands[-len(frames) :]
            frames = []
        if isinstance(item, Frame):
            frames.append(item)
            seen.seconds.append(item.seconds)
            seen.stands.append(1)
            seen.every.append(item.seconds)
        elif isinstance(item, Repeat):
            seen.stands[-1] += 1
            seen.every.append(item.seconds)
        elif item is not None:
            seen.end = item
        else:
            return


def tell(watched: Watched, plan: Plan, clock: Clock) -> None:
    """Warns of what the user would not expect, whether it was looked at now or before."""
    sampled = watched.sampled
    if not watched.complete:
        clock.warn(
            f"the file ends or is damaged at {watched.reached_seconds:.1f} s: answered from the "
            f"{sampled:,} frames up to there, of {watched.wanted:,} asked for"
        )
    elif plan.fps is None and sampled < plan.frames:
        clock.warn(f"{sampled} frames decoded of {plan.frames} asked for")
