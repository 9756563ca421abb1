"""Videos to frames, from the side of the program: every file is opened in a killable child.

Knows what to ask and how long to wait; never opens a video itself and imports neither torch nor
a decoding library.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

from tokenreduce.captions import MAX_TRACK_BYTES, Line, lines, unpacked
from tokenreduce.errors import InputError, TokenReduceError
from tokenreduce.video.answers import accepted, died_on, end_of, item_of, probe_of
from tokenreduce.video.inputs import checked, shown
from tokenreduce.video.process import Child, Died
from tokenreduce.video.requests import check
from tokenreduce.video.types import End, Frame, Limits, Probe, Repeat, Request


class Decoder:
    """Decodes videos one after the other in one child process, restarted when it had to be ended.

    >>> with Decoder() as decoder:                                            # doctest: +SKIP
    ...     probe = decoder.probe("clip.mp4")
    ...     for frame in decoder.frames("clip.mp4", Request(frames=64, size=384), probe):
    ...         frame.seconds, frame.pixels.shape                             # (384, 384, 3)

    No child outlives it: leave the `with` block or call `close`. Not for several threads at once.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._child: Child | None = None
        self._streaming = False

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the child, None while there is none."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """Ends the child; the next call would start another."""
        child, self._child, self._streaming = self._child, None, False
        if child is not None:
            child.kill()

    def probe(self, path: str | os.PathLike[str]) -> Probe:
        """What the file holds. Raises InputError, in one line, for whatever is not a video."""
        header, _ = self._asked(path, {"do": "probe"})
        try:
            return replace(probe_of(header), path=os.fspath(path))
        except Died as died:
            self.close()
            raise died_on(path, died) from None

    def subtitles(
        self, path: str | os.PathLike[str], probe: Probe | None = None
    ) -> tuple[Line, ...] | None:
        """What the file's own text track says, in time as `Frame.seconds`; None if it has none.

        probe: what `probe(path)` said; without it the file is probed first. Raises InputError, in
        one line, if the file cannot be used.
        """
        known = probe or self.probe(path)
        order = {"do": "subtitles", "first_seconds": known.first_seconds}
        header, payload = self._asked(path, order, MAX_TRACK_BYTES)
        try:
            return lines(unpacked(payload)) if header.get("found") else None
        except ValueError:  # only from a child that a hostile file has taken over
            self.close()
            raise died_on(path, Died("sent subtitles that are none")) from None

    def frames(
        self, path: str | os.PathLike[str], request: Request, probe: Probe | None = None
    ) -> Generator[Frame, None, None]:
        """The frames of `stream` alone."""
        return _frames_only(self.stream(path, request, probe))

    def stream(
        self, path: str | os.PathLike[str], request: Request, probe: Probe | None = None
    ) -> Generator[Frame | Repeat | End, None, None]:
        """The wanted frames in order of time, as they are decoded, at least one; then an End.

        probe: what `probe(path)` said; without it the file is probed first.

        Fewer come than asked for where the video has fewer, ends early or is damaged. With
        `request.skip_duplicates`, a Repeat stands for a frame that shows what the last Frame shows.
        At most a few are decoded ahead. To stop early, close the iterator: that ends the child.
        Raises InputError if the file cannot be used or no frame of it decodes, CapacityError if the
        system killed the decoder, SettingError if the request makes no sense or its decoder is not
        installed.
        """
        check(request)
        known = probe or self.probe(path)
        if request.start >= known.seconds and (known.seconds > 0 or request.start > 0):
            raise InputError(
                f"{shown(path)}: lasts {known.seconds:.2f} s, so nothing starts at "
                f"{request.start:g} s; give an earlier start"
            )
        order = {
            "do": "frames",
            "path": checked(path),
            "request": asdict(request),
            "probe": asdict(known),
        }
        return self._stream(path, order, request)

    def _stream(
        self, path: str | os.PathLike[str], order: dict[str, Any], request: Request
    ) -> Generator[Frame | Repeat | End, None, None]:
        child = self._idle_child()
        self._streaming = True
        count = 0
        ended = False
        try:
            child.order(order)
            while True:
                header, payload = child.answer(request.size**2 * 3)
                if header.get("is") not in {"frame", "repeat"}:
                    ended = not header.get("spent")
                    end = end_of(accepted(header, path))
                    break
                if not count and header.get("is") == "repeat":
                    raise Died("repeated what it had not sent")
                count += 1
                if count > request.frames:
                    raise Died("sent more than it was asked for")
                yield item_of(header, payload, request.size)
        except Died as died:
            ended = False
            raise died_on(path, died) from None
        finally:
            if ended and child is self._child:
                self._streaming = False
            else:
                self._drop(child)
        if not count:
            raise InputError(
                f"{shown(path)}: no frame of {_part(request)} can be decoded; choose or export the "
                "file again"
            )
        yield end

    def _asked(
        self, path: str | os.PathLike[str], order: dict[str, Any], most_bytes: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        """The one answer to an order about `path`, and up to `most_bytes` that come with it."""
        absolute = checked(path)
        child = self._idle_child()
        try:
            child.order({**order, "path": absolute})
            header, payload = child.answer(most_bytes)
            if header.get("spent"):
                self._drop(child)
            return accepted(header, path), payload
        except TokenReduceError:
            raise
        except Died as died:
            self._drop(child)
            raise died_on(path, died) from None
        except BaseException:
            self._drop(child)
            raise

    def _idle_child(self) -> Child:
        """A child that waits for orders. One that still streams is ended first."""
        if self._child is not None and (self._streaming or not self._child.alive):
            self.close()
        if self._child is None:
            self._child = Child(self._limits)
        return self._child

    def _drop(self, child: Child) -> None:
        child.kill()
        if child is self._child:
            self._child, self._streaming = None, False


def _frames_only(
    items: Generator[Frame | Repeat | End, None, None],
) -> Generator[Frame, None, None]:
    try:
        for item in items:
            if isinstance(item, Frame):
                yield item
    finally:
        items.close()


def _part(request: Request) -> str:
    """Which part of the file is meant, for a message."""
    if request.stop is None:
        return f"it from {request.start:g} s on" if request.start else "it"
    return f"it from {request.start:g} to {request.stop:g} s"
