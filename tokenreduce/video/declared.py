"""What a file says its pictures last: believed only to tell that its end is missing."""

from __future__ import annotations

import re
from typing import Any

from tokenreduce.video.source import Source

_STREAM_SLACK, _FILE_SLACK = 0.5, 1.0
"""Seconds by which the pictures may end earlier than their own stream, or the whole file, says.
A sound track often runs a little longer; that of a long file by up to a hundredth."""


def declared(source: Source, first_seconds: float, seconds: float) -> float:
    """Seconds from the first frame to where the header says that pictures end.

    first_seconds, seconds: when the first frame is displayed on the file's own clock, and how long
    the pictures last that are there. Where the header says nothing, or no more, `seconds`.
    """
    own = _of_stream(source, first_seconds)
    said, slack = own if own is not None else _of_file(source, first_seconds), _STREAM_SLACK
    if own is None:
        slack = max(_FILE_SLACK, seconds / 100)
    return said if said is not None and said - seconds > slack else seconds


def _of_stream(source: Source, first_seconds: float) -> float | None:
    """What the header says of the stream alone."""
    stream, name = source.stream, source.container.format.name
    if name.startswith("matroska"):
        end = _seconds(stream.metadata.get("DURATION"))
        return None if end is None else end - first_seconds
    if name == "avi" and stream.frames and stream.average_rate:
        # Of a file that was cut off libav has already corrected the duration.
        return float(stream.frames / stream.average_rate)
    return float(stream.duration * source.tick) if stream.duration else None


def _of_file(source: Source, first_seconds: float) -> float | None:
    container: Any = source.container
    if not container.duration:
        return None
    # Matroska's is that of its clock, others' begins with the first stream.
    start = 0 if container.format.name.startswith("matroska") else container.start_time or 0
    return float(container.duration + start) / 1e6 - first_seconds


def _seconds(tag: str | None) -> float | None:
    """Of Matroska's statistics tag, hours:minutes:seconds."""
    parts = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)", tag or "", re.ASCII)
    if parts is None:
        return None
    hours, minutes, seconds = parts.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
