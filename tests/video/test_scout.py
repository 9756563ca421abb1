"""Which frame is on display, told by packets as they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

from tokenreduce.video.scan import Scout
from tokenreduce.video.source import Source
from tokenreduce.video.times import Span
from tokenreduce.video.types import Request

STORED = ((-2, -4, True), (0, -3, False), (-1, -2, False), (2, -1, False), (1, 0, False))
"""(pts, dts, key) of frames with one that is displayed earlier than it is stored."""


class Stored:
    """A source whose clock begins below 0, as no demuxer forbids."""

    in_order, seeks = False, True

    def seek(self, ticks: int | None) -> None:
        """There is one key frame, and packets begin there."""

    def packets(self) -> Iterator[Any]:
        for pts, dts, key in STORED:
            yield SimpleNamespace(pts=pts, dts=dts, is_keyframe=key, is_discard=False, duration=1)


def test_a_frame_at_time_zero_is_a_frame_like_any_other() -> None:
    span = Span(Fraction(1), -2, 2, Fraction(1), 1)
    for moment in range(5):
        request = Request(1, 8, start=float(moment), stop=moment + 0.5)
        (found,) = Scout(cast(Source, Stored()), span, lambda: None).plan(request)
        assert (found.pts, found.key) == (moment - 2, -2)
