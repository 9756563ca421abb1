"""Opens a file for libav as something that may be hostile; knows nothing about which frames.

Only the file protocol and a list of containers, an absolute path, a limit on the pixels of a frame.
Playlists, concatenations and descriptions of network streams are therefore never followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import av
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.stream import Discard, Disposition

from tokenreduce.errors import InputError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,gif,ogg,mpeg,asf"
_SEQUENTIAL = frozenset({"mpeg", "ogg"})
"""Demuxers that know some presentation times only by counting on from earlier ones: after a seek
the same packet may get another time."""

CONTAINERS = "mp4, mov, mkv, webm, avi, ts, flv, gif, ogg, mpg and wmv"

Beat = Callable[[], None]
"""Called now and then during long work, so that the parent sees that it goes on."""

THREADS = 2
"""Of the codec. Each seek refills the pipeline of every thread; more do not pay."""


class Source:
    """One open file and its video stream. Raises InputError if it cannot be used.

    tick      seconds of one tick of the stream's time base
    seeks     whether packets have the same times after a seek; otherwise `seek` goes to the start
    in_order  whether times are guesses, and only the order in which frames come out is known
    """

    def __init__(self, path: str, max_pixels: int) -> None:
        self.path = path
        self._max_pixels = max_pixels
        # libav refuses by itself what is far too large, before it takes the memory. It counts
        # whole strides, hence the factor; `_admit` is exact.
        self._options = {
            "protocol_whitelist": "file",
            "format_whitelist": FORMATS,
            "max_pixels": str(2 * max_pixels),
        }
        self.container = self._open()
        self.stream: Any = _video_stream(self.container)
        self.codec = self.stream.codec_context
        self._admit(max_pixels)
        self.codec.thread_count = THREADS
        self.codec.thread_type = "AUTO"
        self.codec.options = {"max_pixels": self._options["max_pixels"]}
        self.tick = Fraction(self.stream.time_base)
        self.seeks = self.container.format.name not in _SEQUENTIAL
        self.in_order = _times_out_of_order(self)

    def _open(self) -> InputContainer:
        try:
            # Titles in old files are in any encoding.
            return av.open(self.path, options=self._options, metadata_errors="replace")
        except MemoryError:
            raise
        except ArgumentError as error:
            raise InputError(
                f"not a video in a container that is read; allowed are {CONTAINERS}: convert it"
            ) from error
        except InvalidDataError as error:
            raise InputError(
                "not a video, or its header is missing or damaged; "
                f"allowed are {CONTAINERS}: choose or export the file again"
            ) from error
        except FFmpegError as error:
            raise InputError(
                f"cannot be opened as a video ({error.strerror}); allowed are {CONTAINERS}: "
                "choose or export the file again"
            ) from error

    def _admit(self, max_pixels: int) -> None:
        pixels = self.codec.width * self.codec.height
        if not pixels:
            raise InputError(
                f"its frames have no readable size, or one above the allowed {max_pixels / 1e6:g} "
                "million pixels: scale it down, or export it again"
            )
        if pixels > max_pixels:
            raise InputError(
                f"its frames are {self.codec.width} x {self.codec.height}; allowed are "
                f"{max_pixels / 1e6:g} million pixels: scale it down"
            )

    def again(self) -> Source:
        """The same file opened once more, at its start."""
        return Source(self.path, self._max_pixels)

    def seek(self, ticks: int | None) -> None:
        """To somewhere before `ticks`, as well as the container can; None is the start.

        Flushes the codec. A container that cannot seek starts again.
        """
        try:
            if ticks is None or not self.seeks:
                self.container.seek(-(1 << 62), backward=True, any_frame=False)
            else:
                self.container.seek(ticks, stream=self.stream, backward=True)
        except FFmpegError:
            self._reopen()

    def _reopen(self) -> None:
        fresh = self.again()
        self.container.close()
        self.container, self.stream, self.codec = fresh.container, fresh.stream, fresh.codec

    def packets(self) -> Iterator[Any]:
        """The video stream's packets from here on. A damaged or missing rest is the end."""
        return (packet for packet in demuxed(self.container, self.stream) if packet.size)

    def decode(self, packet: Any | None) -> list[Any]:
        """Frames that come out as `packet` goes in; None is the end. Damaged ones are skipped."""
        try:
            return [frame for frame in self.codec.decode(packet) if frame.pts is not None]
        except MemoryError:
            raise
        except FFmpegError:
            return []


def demuxed(container: InputContainer, *streams: Any) -> Iterator[Any]:
    """The streams' packets from where the container stands. A damaged or missing rest is the end.

    In a broadcast streams may begin late. PyAV looks them up in a table that it made before, and
    may so come upon one it does not know: from there on, a new table has it.
    """
    while True:
        try:
            yield from container.demux(*streams)
            return
        except FFmpegError:
            return
        except IndexError:
            continue


def first_frame(source: Source, beat: Beat) -> Any:
    """The first frame that decodes. Raises InputError if none does."""
    for packet in chain(source.packets(), [None]):
        beat()
        if frames := source.decode(packet):
            return frames[0]
    raise InputError("no frame of it can be decoded; it is damaged: choose or export it again")


def _video_stream(container: InputContainer) -> Any:
    """The stream to watch, all others switched off. Cover art is not a video."""
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        kinds = sorted({str(stream.type) for stream in container.streams})
        found = f"no video, only {' and '.join(kinds)}" if kinds else "neither pictures nor sound"
        raise InputError(f"has {found}: choose a file with pictures")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise InputError(
            "its video codec is unknown to this FFmpeg; convert it, for instance to H.264"
        )
    best = max(decodable, key=lambda s: (s.disposition & Disposition.default != 0, _area(s)))
    for stream in container.streams:
        if stream.index != best.index:
            stream.discard = Discard.all
    return best


def _area(stream: Any) -> int:
    return int(stream.codec_context.width * stream.codec_context.height)


def _times_out_of_order(source: Source) -> bool:
    """Whether presentation times are guesses: AVI has none, and H.264 reorders its frames.

    FFmpeg then numbers packets as stored, and only the order in which frames come out is right.
    """
    named = source.container.format.name == "avi" and source.codec.name in {"h264", "hevc"}
    return bool(named and source.codec.has_b_frames)
