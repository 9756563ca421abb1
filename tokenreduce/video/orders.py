"""What the decoding child does when told: probe a file, or give its wanted frames.

Child side only. Knows nothing about processes or messages.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from fractions import Fraction

from tokenreduce.captions import Cue
from tokenreduce.errors import InputError
from tokenreduce.video import text_track
from tokenreduce.video.declared import declared
from tokenreduce.video.decoders import DECODERS
from tokenreduce.video.pictures import Picture
from tokenreduce.video.pixels import display_matrix, resized, rotation
from tokenreduce.video.repeats import SIDE, Repeats
from tokenreduce.video.scan import measure
from tokenreduce.video.source import Beat, Source, first_frame
from tokenreduce.video.times import Span, constant_period, wanted
from tokenreduce.video.types import End, Frame, Limits, Probe, Repeat, Request

NEAR_SECONDS = 0.1
"""A last frame this close before the chosen one is it: the second field of an interlaced frame has
a time of its own."""

SWEEP_FRAMES = 16
"""PyAV ties a frame and its side data to each other, so that only the collector frees them. Left to
itself it comes after hundreds of frames: hundreds of megabytes of 720p, more of larger pictures."""


def probe(path: str, limits: Limits, beat: Beat) -> Probe:
    """What the file holds, by decoding its first frame and reading its last packets.

    Raises InputError if it is not a video that is read here, or no frame of it decodes.
    """
    source = Source(path, limits.pixels)
    frame = first_frame(source, beat)
    span, shown = measure(source, frame.pts, beat)
    rate = source.stream.average_rate or Fraction(0)
    if not shown and rate:
        shown = round(1 / (rate * span.tick))
    turn = rotation(display_matrix(frame))
    width, height = frame.width, frame.height
    seconds = float((span.last - span.first + shown) * span.tick)
    return Probe(
        path=path,
        seconds=seconds,
        width=height if turn % 180 else width,
        height=width if turn % 180 else height,
        fps=float(rate),
        codec=source.codec.codec.canonical_name,
        frames=source.stream.frames,
        rotation=turn,
        first_seconds=float(span.first * span.tick),
        last_seconds=float(span.last * span.tick),
        constant_rate=span.period is not None,
        declared_seconds=declared(source, float(span.first * span.tick), seconds),
    )


def frames(
    path: str, request: Request, known: Probe, limits: Limits, beat: Beat
) -> Iterator[Frame | Repeat | End]:
    """Each wanted frame in order of time, or that it shows nothing new; at last an End.

    known: what `probe` said of the same file. Raises InputError if the file cannot be used,
    SettingError if the decoder is not installed.
    """
    source = Source(path, limits.pixels)
    span = _span(source, known)
    seen = Repeats(request.skip_duplicates) if request.skip_duplicates is not None else None
    due = reached = 0.0
    begin: float | None = None
    for count, sample in enumerate(DECODERS[request.decoder](source, request, span, beat)):
        if count % SWEEP_FRAMES == 0:
            gc.collect()
        due, picture = sample.due, sample.picture
        begin = due if begin is None else begin
        # A picture that stands in for a damaged one must not come from before the range.
        if picture is None or sample.seconds < begin - NEAR_SECONDS:
            continue
        reached = sample.seconds
        _admit(picture, reached, limits)
        if seen is not None and seen.repeats(picture.thumbnail(SIDE)):
            yield Repeat(reached)
        else:
            yield Frame(reached, resized(picture.upright(), request.size))
    short = known.declared_seconds > known.seconds
    cut = short and (request.stop is None or request.stop > known.seconds)
    yield End(wanted(span, request), not cut and due - reached < NEAR_SECONDS, reached)


def _admit(picture: Picture, seconds: float, limits: Limits) -> None:
    """Frames may be larger than the header said."""
    if picture.area > limits.pixels:
        raise InputError(
            f"a frame at {seconds:.2f} s has {picture.area / 1e6:.3g} million pixels; "
            f"allowed are {limits.pixels / 1e6:g} million: scale it down"
        )


def subtitles(path: str, first_seconds: float, limits: Limits, beat: Beat) -> list[Cue] | None:
    """The cues of the file's text track; None without one. Raises InputError as `probe` does."""
    return text_track.read(path, first_seconds, limits.pixels, beat)


def _span(source: Source, known: Probe) -> Span:
    """The span measured by the probe, in the source's ticks again."""
    tick = source.tick
    first, last = (round(Fraction(s) / tick) for s in (known.first_seconds, known.last_seconds))
    if source.in_order:
        return Span(tick, first, last, Fraction(1), 1)
    stream = source.stream
    period = constant_period(first, last, tick, stream.average_rate, stream.base_rate)
    shown = max(round(Fraction(known.seconds) / tick) - (last - first), 0)
    return Span(tick, first, last, period if known.constant_rate else None, shown)
