"""One small picture of each video, kept once made; knows neither ledgers nor pages.

Nothing depends on one: where none can be had, there is none.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokenreduce.cache.digest import FileState, Memo, of_file
from tokenreduce.errors import TokenReduceError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Limits, Request

WIDTH, HEIGHT = 160, 120
"""Pixels at most: 160 wide of whatever is not upright."""

_LIMITS = Limits(stall_seconds=10.0)  # a picture on a page is not worth the minute of an answer
_CLOCKS_APART_NS = 2_000_000_000


class Shelf(Protocol):
    """Where thumbnails are kept; a ledger is one."""

    def thumbnail(self, content: str, /) -> bytes | None: ...

    def keep_thumbnail(self, content: str, jpeg: bytes, /) -> None: ...


class Thumbnails:
    """JPEGs by content, from the shelf, else of a key frame decoded now, in a child that can be
    killed. Leave the `with` block, or the child stays.

    memo  remembers digests, so that a file need not be read to be known
    """

    def __init__(self, shelf: Shelf, memo: Memo | None = None) -> None:
        self._shelf, self._memo = shelf, memo
        self._decoder = Decoder(_LIMITS)

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._decoder.close()

    def of(self, content: str, names: Iterable[str], started: str) -> bytes | None:
        """names: where the file may be; started: when it was asked, see `rows.now`."""
        kept = self._shelf.thumbnail(content)
        if kept is not None:
            return kept
        for name in names:
            if not is_still(name, content, started, self._memo):
                continue
            made = self._made(name)
            if made is not None:
                self._shelf.keep_thumbnail(content, made)
            return made
        return None

    def _made(self, path: str) -> bytes | None:
        try:
            probe = self._decoder.probe(path)
            # The middle, for many begin in black; the beginning where the middle is damaged.
            for start in (probe.seconds / 2, 0.0):
                request = Request(frames=1, size=2 * WIDTH, seek="keyframe", start=start)
                try:
                    # To its end: a stream that is left ends the child.
                    (frame,) = self._decoder.frames(path, request, probe)
                    return jpeg(frame.pixels, probe.width / max(probe.height, 1))
                except TokenReduceError:
                    continue
        except TokenReduceError:
            return None
        return None


def is_still(path: str, content: str, started: str, memo: Memo | None) -> bool:
    """Whether the file at `path` is, as far as can be told, the one whose digest is `content`.

    One that was not changed since it was asked about is believed; any other is digested, which
    reads the whole of it unless `memo` knows it.
    """
    try:
        state = FileState.of(os.stat(path))
    except (OSError, ValueError):
        return False
    try:
        asked_ns = int(datetime.fromisoformat(started).timestamp() * 1e9)
    except (ValueError, OverflowError):
        asked_ns = 0
    if state.changed_ns < asked_ns - _CLOCKS_APART_NS:
        return True
    found = of_file(path, memo)
    return found is not None and found.value == content


def jpeg(pixels: NDArray[np.uint8], aspect: float) -> bytes:
    """A frame squashed to a square, at its own shape and within WIDTH x HEIGHT, a few KB."""
    from PIL import Image

    shape = min(max(aspect, 1 / 8), 8.0)
    wide = min(WIDTH, HEIGHT * shape)
    size = round(wide), round(wide / shape)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    small = image.resize(size, Image.Resampling.BICUBIC)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=70, optimize=True)
    return data.getvalue()
