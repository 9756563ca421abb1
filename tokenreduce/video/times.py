"""Which frames are wanted: uniform in time, or so many a second. Knows no decoder.

Times are integer ticks of the stream's own time base, so that nothing is rounded twice. On a
constant rate the choice is the one LLaVA-Video was trained with, `int(linspace(0, n - 1, N))`; on
any other it is the frame on display at each of N evenly spaced moments. Frames are never repeated:
asking for more than there are gives each once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor

import numpy as np

from tokenreduce.video.types import Request


@dataclass(frozen=True)
class Span:
    """The frames of a video on its own clock.

    tick         seconds of one tick
    first, last  presentation times of the first and the last frame, in ticks
    period       ticks from frame to frame where that is constant, else None
    shown        ticks for which the last frame is on display, 0 if unknown
    """

    tick: Fraction
    first: int
    last: int
    period: Fraction | None
    shown: int = 0

    def ticks(self, seconds: float) -> Fraction:
        """`seconds` after the first frame, as ticks after the first frame."""
        return _freed(Fraction(seconds) / self.tick)

    def seconds(self, pts: int) -> float:
        """A presentation time in seconds, 0 at the first frame."""
        return float((pts - self.first) * self.tick)


def constant_period(
    first: int, last: int, tick: Fraction, average: Fraction | None, base: Fraction | None
) -> Fraction | None:
    """Ticks between frames if the rate is constant, else None.

    average  frames a second over the whole stream, as the header or the demuxer says
    base     lowest rate on whose grid all timestamps seen while opening lie

    Both must agree, and a whole number of periods must lie between the ends; the period is then
    taken from the ends, because rates are often rounded (29.97 for 30000/1001).
    """
    if not average or not base or abs(average / base - 1) > Fraction(1, 1000):
        return None
    count = (last - first) * tick * average
    whole = round(count)
    # A tenth of a frame: millisecond timestamps of a 60 Hz video are off by up to 0.06.
    if whole < 1 or abs(count - whole) > Fraction(1, 10):
        return None
    period = Fraction(last - first, whole)
    return period if period >= 1 else None


def even(times: Iterable[int], period: Fraction) -> bool:
    """Whether `times`, in any order, lie one period apart, but for their rounding to ticks."""
    slack = max(period / 10, Fraction(1))
    return all(abs(b - a - period) < slack for a, b in pairwise(sorted(times)))


def pace(span: Span, request: Request) -> Fraction | None:
    """Moments a second, if that is how the request samples; None: it spreads `frames` of them."""
    if request.fps is None or _paced(span, request, Fraction(request.fps)) > request.frames:
        return None
    return Fraction(request.fps)


def wanted(span: Span, request: Request) -> int:
    """How many moments `moments` gives."""
    fps = pace(span, request)
    return request.frames if fps is None else _paced(span, request, fps)


def moments(span: Span, request: Request) -> list[int]:
    """Ascending ticks; each asks for the frame with the largest presentation time at or below it.

    request: its `start` lies before the end of the span.
    """
    fps = pace(span, request)
    if fps is None:
        return targets(span, request.frames, request.start, request.stop)
    begin, step = Fraction(request.start) / span.tick + _slack(span), 1 / (fps * span.tick)
    places = (floor(_freed(begin + i * step)) for i in range(_paced(span, request, fps)))
    return [min(span.first + place, span.last) for place in places]


def _paced(span: Span, request: Request, fps: Fraction) -> int:
    """How many of start, start + 1 / fps, ... lie before the end of display and not after stop."""
    start = Fraction(request.start)
    end = (span.last - span.first + span.shown - _slack(span)) * span.tick
    count = ceil(_freed((end - start) * fps))
    if request.stop is not None:
        count = min(count, floor(_freed((Fraction(request.stop) - start) * fps)) + 1)
    return max(count, 1)


def _slack(span: Span) -> Fraction:
    """Ticks by which a frame may be stored too late for its moment: times are rounded to ticks."""
    return min(Fraction(1, 2), Fraction(1, 1000) / span.tick)


def targets(span: Span, frames: int, start: float = 0.0, stop: float | None = None) -> list[int]:
    """Ascending ticks; each asks for the frame with the largest presentation time at or below it.

    frames       how many, at least 1
    start, stop  seconds after the first frame; stop None is the last frame
    """
    length = Fraction(span.last - span.first)
    low = min(span.ticks(start), length)
    high = length if stop is None else max(low, min(span.ticks(stop), length))
    if span.period is None:
        steps = max(frames - 1, 1)
        return [span.first + int(low + (high - low) * i / steps) for i in range(frames)]
    # In numpy's own arithmetic and truncated, as the reference does: with exact fractions about
    # one choice of (n, N) in 150 differs by a frame, where a float product falls short of an
    # integer. Half a period of grace absorbs timestamps that were rounded to ticks.
    begin, end = (float(_freed(bound / span.period)) for bound in (low, high))
    grid = np.linspace(begin, end, frames)
    return [span.first + int((int(k) + Fraction(1, 2)) * span.period) for k in grid]


def _freed(position: Fraction) -> Fraction:
    """A position freed of the binary rounding of seconds such as 1.9, which may lie below."""
    near = round(position)
    return Fraction(near) if abs(position - near) < Fraction(1, 10**6) else position


def choose(times: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Indices into ascending `times`, for decoders that list every frame; each at most once."""
    indices = (max(bisect_right(times, target) - 1, 0) for target in wanted)
    return list(dict.fromkeys(indices))
