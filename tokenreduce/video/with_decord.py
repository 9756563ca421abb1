"""Decodes the wanted frames of a file with decord, an optional package; see docs/decoding.md.

Imported only when it is asked for, and given only files that the whitelisted probe accepted: decord
itself has no way to restrict what it opens, and may hang or abort, which the parent's limits end.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np

from tokenreduce.errors import InputError, SettingError
from tokenreduce.video.pictures import Plain, Sample
from tokenreduce.video.source import Beat, Source
from tokenreduce.video.times import Span, choose, constant_period, moments
from tokenreduce.video.types import Request

TICK = Fraction(1, 1_000_000)


def decode(source: Source, request: Request, span: Span, beat: Beat) -> Iterator[Sample]:
    """Each wanted frame, as decord lists and times them.

    Raises SettingError if decord is not installed, InputError if it cannot read the file.
    """
    decord = _package()
    reader = _guarded(lambda: decord.VideoReader(source.path, ctx=decord.cpu(0), num_threads=2))
    times = _guarded(lambda: np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 0])
    pts = [round(float(time) / TICK) for time in times]
    rate = Fraction(float(reader.get_avg_fps())).limit_denominator(1001)
    period = constant_period(pts[0], pts[-1], TICK, rate, rate) if span.period else None
    own = Span(TICK, pts[0], pts[-1], period, round(span.shown * span.tick / TICK))
    indices = choose(pts, moments(own, request))
    if request.seek == "keyframe":
        indices = _snapped(indices, [int(key) for key in reader.get_key_indices()])
    for index in indices:
        beat()
        pixels = _guarded(lambda i=index: reader[i].asnumpy())
        yield Sample(own.seconds(pts[index]), Plain(pixels), own.seconds(pts[index]))


def _snapped(indices: list[int], keys: list[int]) -> list[int]:
    """Each index's key frame, or itself if that one is taken."""
    chosen: list[int] = []
    latest = -1
    for index in indices:
        key = max((key for key in keys if key <= index), default=index)
        if (pick := key if key > latest else index) > latest:
            chosen.append(pick)
            latest = pick
    return chosen


def _package() -> Any:
    try:
        decord = import_module("decord")
    except (ImportError, OSError) as error:
        raise SettingError(
            "decoder 'decord' is not installed; use 'pyav' (the default), or run: "
            "pip install decord (wheels for x86-64 Linux and Windows)"
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _guarded(call: Any) -> Any:
    """decord's errors have no base of their own, and say nothing a user could act on."""
    try:
        return call()
    except MemoryError:
        raise
    except Exception as error:
        raise InputError("decord cannot read it; try the decoder 'pyav'") from error
