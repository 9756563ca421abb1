"""The subtitles inside a video file, taken from its packets without any decoder of libav's.

Child side only. Knows how each codec wraps its text, not what is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from av.stream import Discard, Disposition

from tokenreduce.captions import MAX_CUES, MAX_TRACK_CHARACTERS, Cue, without_styling
from tokenreduce.video.source import Beat, Source, demuxed


def read(path: str, first_seconds: float, max_pixels: int, beat: Beat) -> list[Cue] | None:
    """The cues of the file's default text track, in seconds after the first frame.

    first_seconds: presentation time of the first frame, as the probe measured it. None if there
    is no text track: subtitles that are pictures (DVD, Blu-ray, DVB) are none. At most MAX_CUES
    and MAX_TRACK_CHARACTERS; a damaged rest is left out. Raises InputError if the file is no video.
    """
    source = Source(path, max_pixels)
    track = _track(source.container.streams.subtitles)
    if track is None:
        return None
    text_of = _WORDS[track.codec_context.name]
    cues: list[Cue] = []
    taken = 0
    for packet in _packets(source, track, beat):
        text = text_of(bytes(packet))
        taken += len(text)
        if taken > MAX_TRACK_CHARACTERS or len(cues) == MAX_CUES:
            break
        if packet.pts is not None and text.strip():
            start = float(packet.pts * track.time_base) - first_seconds
            cues.append((start, start + float((packet.duration or 0) * track.time_base), text))
    return cues


def _track(streams: Sequence[Any]) -> Any | None:
    """The text track to read: the default one, else the first that is not for foreign words."""
    texts = [one for one in streams if one.codec_context and one.codec_context.name in _WORDS]
    unwanted = Disposition.forced | Disposition.comment
    return min(
        texts,
        key=lambda one: (
            not one.disposition & Disposition.default,
            bool(one.disposition & unwanted),
        ),
        default=None,
    )


def _packets(source: Source, track: Any, beat: Beat) -> Iterator[Any]:
    """The track's packets. Where a file must be read through, key frames mark the time."""
    indexed = source.container.format.name.startswith("mov")
    source.stream.discard = Discard.all if indexed else Discard.nonkey
    track.discard = Discard.default
    for packet in demuxed(source.container, source.stream, track):
        beat()
        if packet.stream.index == track.index:
            yield packet


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _mov_text(data: bytes) -> str:
    """3GPP timed text (TS 26.245, 5.17): a length, the text, then boxes of styling."""
    text = data[2 : 2 + int.from_bytes(data[:2], "big")]
    if text.startswith((b"\xfe\xff", b"\xff\xfe")):
        return text.decode("utf-16", "replace")
    return _text(text)


def _ass(data: bytes) -> str:
    """As Matroska stores an event: eight fields, then the text, with its styling."""
    return without_styling(_text(data).split(",", 8)[-1])


_WORDS: Mapping[str, Callable[[bytes], str]] = {
    "mov_text": _mov_text,
    "ass": _ass,
    "ssa": _ass,
    "srt": _text,
    "subrip": _text,
    "text": _text,
    "webvtt": _text,
}
