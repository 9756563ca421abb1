"""Decodes the frames a plan wants and hands them on, a chunk at a time, as they come.

Decoding goes on in its child while a chunk is being encoded. Knows nothing about what becomes of
the frames, nor about questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
    until     of the last sampled frame that each stands for, itself or one that repeats it
    wanted    frames that were to be sampled        repeats  sampled, and not looked at
    reached_seconds  of the last one that was sampled; complete: the file did not end before
    """

    seconds: tuple[float, ...]
    until: tuple[float, ...]
    wanted: int
    repeats: int = 0
    complete: bool = True
    reached_seconds: float = 0.0

    @property
    def sampled(self) -> int:
        return len(self.seconds) + self.repeats


def watch(
    decoder: Decoder,
    subject: Footage,
    plan: Plan,
    size: int,
    clock: Clock,
    take: Callable[[Tensor], None],
    sheet: Sheet | None = None,
) -> Watched:
    """Gives `take` uint8 (f, size, size, 3), at most CHUNK frames at a time, in order of time.

    sheet: gets each of them, too. Raises InputError if no frame can be decoded.
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
    for frames in _chunks(source, seen, clock):
        with clock.within("encode"):
            take(torch.from_numpy(np.stack([frame.pixels for frame in frames])))
        if sheet is not None:
            for frame in frames:
                sheet.add(frame.seconds, frame.pixels)
        clock.advance("encode", len(seen.seconds))
    clock.end("decode")
    clock.end("encode")
    watched = Watched(
        tuple(seen.seconds),
        tuple(seen.until),
        seen.end.wanted,
        seen.repeats,
        seen.end.complete,
        seen.end.reached_seconds,
    )
    tell(watched, plan, clock)
    return watched


@dataclass
class _Seen:
    """What has come so far."""

    seconds: list[float] = field(default_factory=list)
    until: list[float] = field(default_factory=list)
    repeats: int = 0
    end: End = field(default_factory=lambda: End(0, False, 0.0))


def _chunks(
    source: Iterator[Frame | Repeat | End], seen: _Seen, clock: Clock
) -> Iterator[list[Frame]]:
    frames: list[Frame] = []
    while True:
        with clock.within("decode"):
            item = next(source, None)
        if isinstance(item, Frame):
            frames.append(item)
            seen.seconds.append(item.seconds)
            seen.until.append(item.seconds)
        elif isinstance(item, Repeat):
            seen.repeats += 1
            seen.until[-1] = item.seconds
        elif item is not None:
            seen.end = item
        if item is None or len(frames) == CHUNK:
            clock.advance("decode", len(seen.seconds) + seen.repeats)
            if frames:
                yield frames
            frames = []
        if item is None:
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
