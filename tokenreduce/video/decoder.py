"""Videos to frames, from the side of the program: every file is opened in a killable child.

Knows what to ask and how long to wait; never opens a video itself and imports neither torch nor
a decoding library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, get_args

import numpy as np

from tokenreduce.errors import InputError, SettingError, TokenReduceError
from tokenreduce.video.inputs import checked, shown
from tokenreduce.video.process import Child, Died
from tokenreduce.video.types import DecoderName, Frame, Limits, Probe, Request, Seek

MAX_SIZE = 4096
"""Largest side of a decoded square, far above any vision tower's."""


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
        absolute = checked(path)
        child = self._idle_child()
        try:
            child.order({"do": "probe", "path": absolute})
            header, _ = child.answer()
            if header.get("spent"):
                self._drop(child)
            facts = _accepted(header, path)
        except TokenReduceError:
            raise
        except Died as died:
            self._drop(child)
            raise _died(path, died) from None
        except BaseException:
            self._drop(child)
            raise
        facts.pop("is")
        return replace(Probe(**facts), path=os.fspath(path))

    def frames(
        self, path: str | os.PathLike[str], request: Request, probe: Probe | None = None
    ) -> Iterator[Frame]:
        """The wanted frames in order of time, as they are decoded; at least one.

        probe: what `probe(path)` said; without it the file is probed first.

        Fewer come than asked for where the video has fewer, ends early or is damaged. At most
        a few are decoded ahead. To stop early, close the iterator: that ends the child.
        Raises InputError if the file cannot be used or no frame of it decodes, SettingError if
        the request makes no sense or its decoder is not installed.
        """
        _check(request)
        known = probe or self.probe(path)
        if request.start >= known.seconds > 0:
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
        return self._stream(path, order, request.size)

    def _stream(
        self, path: str | os.PathLike[str], order: dict[str, Any], size: int
    ) -> Iterator[Frame]:
        child = self._idle_child()
        self._streaming = True
        count = 0
        ended = False
        try:
            child.order(order)
            while True:
                header, payload = child.answer(size * size * 3)
                if header["is"] != "frame":
                    ended = not header.get("spent")
                    _accepted(header, path)
                    break
                pixels = np.frombuffer(payload, np.uint8).reshape(size, size, 3)
                count += 1
                yield Frame(float(header["seconds"]), pixels)
        except Died as died:
            raise _died(path, died) from None
        finally:
            if ended and child is self._child:
                self._streaming = False
            else:
                self._drop(child)
        if not count:
            raise InputError(
                f"{shown(path)}: no frame of it can be decoded; choose or export the file again"
            )

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


def _accepted(header: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header if the order was carried out, else the error it stands for."""
    if header["is"] == "refused":
        kind = SettingError if header["error"] == "SettingError" else InputError
        raise kind(f"{shown(path)}: {header['message']}")
    if header["is"] == "bug":
        raise RuntimeError(f"the decoding process failed on {shown(path)}:\n{header['trace']}")
    return header


def _died(path: str | os.PathLike[str], died: Died) -> InputError:
    return InputError(
        f"{shown(path)}: the decoder {died}; the file is probably damaged: convert it, or choose "
        "another"
    )


def _check(request: Request) -> None:
    """Raises SettingError for a request no video could meet."""
    if request.frames < 1:
        raise SettingError(f"frames is {request.frames}; it can be 1 or more")
    if not 1 <= request.size <= MAX_SIZE:
        raise SettingError(f"frame size is {request.size}; it can be 1 to {MAX_SIZE} pixels")
    for name, value, allowed in (
        ("decoder", request.decoder, get_args(DecoderName)),
        ("seek", request.seek, get_args(Seek)),
    ):
        if value not in allowed:
            raise SettingError(f"{name} is {value!r}; it can be {', '.join(allowed)}")
    if not request.start >= 0:
        raise SettingError(f"start is {request.start:g} s; it can be 0 or more")
    if request.stop is not None and not request.stop >= request.start:
        raise SettingError(
            f"stop is {request.stop:g} s; it can be {request.start:g} (the start) or more"
        )
