"""Reads packets without decoding them, to learn which frames are where. Never trusts a header.

Containers declare frame counts and durations that are wrong, index their key frames by decoding
time, and seek to where they please. So every question is answered by reading packets: from
somewhere before a place, up to the place.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from tokenreduce.video.source import Beat, Source
from tokenreduce.video.times import Span, constant_period, even, moments, pace
from tokenreduce.video.types import Request

BACK_SECONDS = (0, 1, 4, 16, 64)
"""How far before a place to try next, when a seek went past it. After these, the start."""


SAMPLE = 128
"""Frames at each end that are looked at to tell whether the rate is constant."""

REORDERED = 32
"""More than any codec's frames that are stored before one displayed earlier."""


class Wanted(NamedTuple):
    """A frame to decode: its presentation time, and that of a key frame it can be reached from.

    key None: only from the start of the file.
    """

    pts: int
    key: int | None


class Seen(NamedTuple):
    """A packet read: presentation and decoding time in ticks, 0 ticks of duration if unknown.

    shown: an edit list may have a frame decoded for others' sake and never displayed.
    """

    pts: int
    dts: int | None
    key: bool
    shown: bool
    duration: int


def seen(source: Source, beat: Beat) -> Iterator[Seen]:
    """The packets from where the source stands, those without any time left out."""
    for packet in source.packets():
        beat()
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is not None:
            shown = not packet.is_discard
            yield Seen(pts, packet.dts, packet.is_keyframe, shown, packet.duration or 0)


def measure(source: Source, first: int, beat: Beat) -> tuple[Span, int]:
    """The span of the frames that are there, and how many ticks the last one is displayed.

    first: presentation time of the first frame that decodes.
    """
    if source.in_order:
        source.seek(None)
        count = sum(packet.shown for packet in seen(source, beat))
        return Span(source.tick, 0, max(count - 1, 0), Fraction(1)), 1
    tail = _tail(source, first, beat)
    last, shown = (tail[-1].pts, tail[-1].duration) if tail else (first, 0)
    stream = source.stream
    period = constant_period(first, last, source.tick, stream.average_rate, stream.base_rate)
    # A header may claim a constant rate for frames that come as they like; the ends would tell.
    if period and not (
        even([packet.pts for packet in tail], period) and even(_head(source, first, beat), period)
    ):
        period = None
    return Span(source.tick, first, last, period), shown


def _head(source: Source, first: int, beat: Beat) -> list[int]:
    """Ascending times of the first frames, `SAMPLE` at most."""
    source.seek(None)
    times: list[int] = []
    for packet in seen(source, beat):
        if packet.shown and packet.pts >= first:
            insort(times, packet.pts)
        if len(times) == SAMPLE + REORDERED:
            return times[:SAMPLE]
    return times


def _tail(source: Source, first: int, beat: Beat) -> list[Seen]:
    """The packets displayed last, ascending in time, `SAMPLE` at most."""
    duration = source.container.duration  # microseconds
    end = first if duration is None else first + int(Fraction(duration, 10**6) / source.tick)
    for back in (*BACK_SECONDS, None):
        place = end - int(back / source.tick) if back is not None and source.seeks else first
        source.seek(place if place > first else None)
        read: deque[Seen] = deque(maxlen=SAMPLE + REORDERED)
        # Of the packets after a seek, only those from a key frame on are sure to include the one
        # displayed last: frames are stored in the order of decoding.
        key = first if place <= first else None
        for packet in seen(source, beat):
            key = packet.pts if key is None and packet.key else key
            if packet.shown and key is not None and packet.pts >= max(key, first):
                read.append(packet)
        if read or place <= first:
            break
    tail = sorted(read, key=lambda packet: packet.pts)
    return tail[-SAMPLE:] if len(tail) > SAMPLE else tail


class Scout:
    """Finds frames and their key frames, moving forward through a Source of its own."""

    def __init__(self, source: Source, span: Span, beat: Beat) -> None:
        self._source = source
        self._span = span
        self._beat = beat
        self._packets: Iterator[Seen] = iter(())
        self._ahead: list[Seen] = []  # read, but displayed after the target
        self._best: int | None = None
        self._key: int | None = None
        self._target: int | None = None
        self._reach = 0

    def plan(self, request: Request) -> Iterator[Wanted]:
        """Each wanted frame once, ascending."""
        asked = moments(self._span, request)
        if self._source.in_order:
            yield from (Wanted(pts, None) for pts in dict.fromkeys(asked))
            return
        latest = self._span.first - 1
        paced = pace(self._span, request) is not None
        for target in asked if paced else self._every(asked) or asked:
            self._beat()
            wanted = self._at(target)
            if wanted is None:
                continue
            if request.seek == "keyframe" and wanted.key is not None and wanted.key > latest:
                wanted = Wanted(wanted.key, wanted.key)
            if wanted.pts > latest:
                latest = wanted.pts
                yield wanted

    def _every(self, asked: Sequence[int]) -> list[int] | None:
        """The time of every frame between the ends, if there are no more than are asked for.

        None if there are more. On a constant rate evenly spaced times meet every frame by
        themselves; otherwise they would miss some of a burst.
        """
        if self._span.period:
            return None
        low, high = asked[0], asked[-1]
        self._jump(low)
        times = [] if self._best is None else [self._best]
        for packet in (*self._ahead, *self._packets):
            if packet.shown and low < packet.pts <= high:
                insort(times, packet.pts)
            if len(times) > len(asked) or (packet.dts is not None and packet.dts > high):
                break
        self._target = None
        return times if 0 < len(times) <= len(asked) else None

    def _at(self, target: int) -> Wanted | None:
        """The frame on display at `target`."""
        since = None if self._target is None else target - self._target
        if since is not None and (since <= self._reach or not self._source.seeks):
            self._read(target)
        else:
            self._jump(target)
        self._target = target
        if self._best is None:
            return None
        if self._key is None or self._key > self._best or not self._source.seeks:
            return Wanted(self._best, None)
        # Key frames further apart than this are read through rather than sought again.
        self._reach = max(self._reach, target - self._key)
        return Wanted(self._best, self._key)

    def _jump(self, target: int) -> None:
        """Seeks to before the key frame of `target` and reads up to it."""
        for back in (*BACK_SECONDS, None):
            place = target - int(back / self._span.tick) if back is not None else self._span.first
            at_start = place <= self._span.first
            self._source.seek(None if at_start else place)
            self._packets = seen(self._source, self._beat)
            self._ahead, self._best, self._key = [], None, None
            self._read(target)
            if self._key is not None or at_start:
                return

    def _read(self, target: int) -> None:
        """Reads until all frames displayed by `target` are known: no frame precedes its dts."""
        ahead, self._ahead = self._ahead, []
        for packet in ahead:
            self._note(packet, target)
        for packet in self._packets:
            self._note(packet, target)
            if packet.dts is not None and packet.dts > target:
                return

    def _note(self, packet: Seen, target: int) -> None:
        if packet.pts > target:
            self._ahead.append(packet)
            return
        # What precedes the first frame that decodes is not there.
        if packet.shown and packet.pts >= self._span.first:
            self._best = _latest(self._best, packet.pts)
        if packet.key:
            self._key = _latest(self._key, packet.pts)


def _latest(before: int | None, pts: int) -> int:
    return pts if before is None else max(before, pts)
