"""What the decoding child does when told: probe a file, or give its wanted frames.

Child side only. Knows nothing about processes or messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tokenreduce.errors import InputError
from tokenreduce.video.decoders import DECODERS
from tokenreduce.video.pixels import Pixels, display_matrix, resized, rotation
from tokenreduce.video.scan import measure
from tokenreduce.video.source import Beat, Source, first_frame
from tokenreduce.video.times import Span, constant_period
from tokenreduce.video.types import Limits, Probe, Request


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
    return Probe(
        path=path,
        seconds=float((span.last - span.first + shown) * span.tick),
        width=height if turn % 180 else width,
        height=width if turn % 180 else height,
        fps=float(rate),
        codec=source.codec.codec.canonical_name,
        frames=source.stream.frames,
        rotation=turn,
        first_seconds=float(span.first * span.tick),
        last_seconds=float(span.last * span.tick),
        constant_rate=span.period is not None,
    )


def frames(
    path: str, request: Request, known: Probe, limits: Limits, beat: Beat
) -> Iterator[tuple[float, Pixels]]:
    """Seconds after the first frame and (size, size, 3) pixels of each wanted frame, in order.

    known: what `probe` said of the same file. Raises InputError if the file cannot be used,
    SettingError if the decoder is not installed.
    """
    source = Source(path, limits.pixels)
    span = _span(source, known)
    for seconds, pixels in DECODERS[request.decoder](source, request, span, beat):
        if pixels.shape[0] * pixels.shape[1] > limits.pixels:
            raise InputError(
                f"a frame at {seconds:.2f} s has {pixels.shape[1]} x {pixels.shape[0]} pixels; "
                f"allowed are {limits.pixels / 1e6:g} million: scale it down"
            )
        yield seconds, resized(pixels, request.size)


def _span(source: Source, known: Probe) -> Span:
    """The span measured by the probe, in the source's ticks again."""
    tick = source.tick
    first, last = (round(Fraction(s) / tick) for s in (known.first_seconds, known.last_seconds))
    if source.in_order:
        return Span(tick, first, last, Fraction(1))
    stream = source.stream
    period = constant_period(first, last, tick, stream.average_rate, stream.base_rate)
    return Span(tick, first, last, period if known.constant_rate else None)
