"""Decodes the wanted frames of a file with PyAV, exactly and with as little decoding as possible.

Knows how to reach a frame, not why it is wanted. A run starts at a key frame and goes on for as
long as that is the shortest way to the next frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from av.video.reformatter import VideoReformatter

from tokenreduce.video.h264 import needless, prefix_bytes
from tokenreduce.video.pictures import Coded, Sample
from tokenreduce.video.scan import BACK_SECONDS, Scout, Wanted
from tokenreduce.video.source import Beat, Source
from tokenreduce.video.times import Span
from tokenreduce.video.types import Request

# Codecs whose frames without reference flag no frame at all refers to. In HEVC and AV1 a frame
# that its own temporal layer does not refer to may serve a higher one, so nothing is skipped.
_SKIPPABLE = frozenset({"h264", "mpeg2video"})

THREADS = 3
"""Of an H.264 decoder that is given reference pictures only. They take turns with every other one
much cheaper (P, B, P, B): with two threads one would decode all the expensive ones."""

# AVFieldOrder UNKNOWN and PROGRESSIVE: one packet is one frame, never half of one.
_WHOLE = frozenset({0, 1})


def decode(source: Source, request: Request, span: Span, beat: Beat) -> Iterator[Sample]:
    """Each wanted frame in order of time; see `tokenreduce.video.decoders.Decode`."""
    reformatter, thumbnails = VideoReformatter(), VideoReformatter()
    if source.codec.name == "h264":
        source.codec.thread_count = THREADS
    plan = Scout(source.again(), span, beat).plan(request)
    for wanted, found in exact(source, plan, beat):
        seconds = span.seconds(wanted.pts)
        if found is None:
            yield Sample(seconds, None)
        else:
            yield Sample(seconds, Coded(found[0], reformatter, thumbnails), span.seconds(found[1]))


def exact(
    source: Source, plan: Iterable[Wanted], beat: Beat
) -> Iterator[tuple[Wanted, tuple[Any, int] | None]]:
    """The planned frames with their presentation times; None for those that do not decode.

    Where a planned frame does not come out, the one displayed before it stands in, but for once
    only.
    """
    run = Run(source, beat)
    latest: int | None = None
    for wanted, following in _with_next(plan):
        leap = following is None or (following.key is not None and following.key > wanted.pts)
        leap = leap and not source.in_order
        found = run.reach(wanted, leap) or run.retry(wanted)
        if found is not None and (latest is None or found[1] > latest):
            latest = found[1]
            yield wanted, found
        else:
            yield wanted, None


class Run:
    """A decoder's way through a source."""

    def __init__(self, source: Source, beat: Beat) -> None:
        self._source = source
        self._beat = beat
        self._prefix = prefix_bytes(source.codec.extradata)
        self._packets: Iterator[Any] = iter(())
        self._ready: deque[tuple[Any, int]] = deque()
        self._fed: int | None = None  # latest presentation time given to the codec; None: none
        self._drained = True
        self._key: int | None = None  # where decoding began, if at a key frame
        self._entry: int | None = None  # the first frame that came out from there on
        self._count = 0  # frames that came out since the start, where only their order is known

    def reach(self, wanted: Wanted, leap: bool) -> tuple[Any, int] | None:
        """The wanted frame, or the last one displayed before it; None if there is neither.

        leap: the frame after this one is reached by a seek, so the codec may be drained here.
        """
        key, fed = wanted.key, self._fed
        entered = self._drained or (key is not None and (fed is None or key > fed))
        if entered:
            self._go(key)
        found = self._until(wanted.pts, leap)
        return None if entered and key is not None and self._shown_after(key) else found

    def retry(self, wanted: Wanted) -> tuple[Any, int] | None:
        """From further back, for places from which decoding recovers only little by little.

        Such are the recovery points of streams that refresh their pictures in stripes: marked as
        key frames, not displayed themselves, and the frames after them are partly grey.
        """
        if wanted.key is None:
            return None
        self._start(wanted.key - int(BACK_SECONDS[3] / self._source.tick))
        return self._until(wanted.pts, leap=False)

    def _shown_after(self, key: int) -> bool:
        """Whether decoding began at `key` and yet its frame did not come out."""
        return self._entry is not None and self._entry > key

    def _until(self, pts: int, leap: bool) -> tuple[Any, int] | None:
        best = None
        while (item := self._next(pts, leap)) is not None:
            if item[1] > pts:
                self._ready.appendleft(item)
                break
            best = item
            if item[1] == pts:
                break
        return best

    def _next(self, pts: int, leap: bool) -> tuple[Any, int] | None:
        """The next frame to come out on the way to `pts`; None at the end."""
        while not self._ready and not self._drained:
            self._beat()
            packet = next(self._packets, None)
            self._feed(packet, pts)
            whole = self._source.codec.field_order in _WHOLE
            if packet is None or (leap and whole and packet.pts == pts):
                self._drain()
        return self._ready.popleft() if self._ready else None

    def _feed(self, packet: Any | None, pts: int) -> None:
        if packet is None:
            return
        source = self._source
        time = packet.pts
        before = time is not None and time < pts
        if time is not None:
            self._fed = time if self._fed is None else max(self._fed, time)
        if source.codec.name in _SKIPPABLE and not source.in_order:
            if before and self._needless(packet):
                return
            source.codec.skip_frame = "NONREF" if before else "DEFAULT"
        self._take(source.decode(packet))

    def _needless(self, packet: Any) -> bool:
        """Whether the decoder would skip it. Fields may come as packets of their own."""
        codec = self._source.codec
        if codec.name != "h264" or codec.field_order not in _WHOLE:
            return False
        return not packet.has_sidedata("new_extradata") and needless(bytes(packet), self._prefix)

    def _drain(self) -> None:
        self._take(self._source.decode(None))
        self._drained = True

    def _take(self, frames: Iterable[Any]) -> None:
        for frame in frames:
            pts = self._count if self._source.in_order else frame.pts
            if self._entry is None and (self._key is None or pts >= self._key):
                self._entry = pts
            self._ready.append((frame, pts))
            self._count += 1

    def _start(self, place: int | None) -> None:
        self._source.seek(place)
        self._packets = self._source.packets()
        self._ready.clear()
        self._fed, self._drained, self._count = None, False, 0
        self._key = self._entry = None

    def _go(self, key: int | None) -> None:
        """To the key frame displayed at `key`, so that its packet is the next."""
        if key is None:
            self._start(None)
            return
        for back in BACK_SECONDS:
            self._start(key - int(back / self._source.tick))
            for packet in self._packets:
                self._beat()
                if packet.is_keyframe and packet.pts == key:
                    self._packets = chain([packet], self._packets)
                    self._key = key
                    return
                if packet.dts is not None and packet.dts > key:
                    break
        self._start(None)


def _with_next(plan: Iterable[Wanted]) -> Iterator[tuple[Wanted, Wanted | None]]:
    steps = iter(plan)
    current = next(steps, None)
    while current is not None:
        following = next(steps, None)
        yield current, following
        current = following
