"""Whether a request for frames makes sense whatever the video. Opens nothing."""

from __future__ import annotations

from math import isfinite
from typing import get_args

from tokenreduce.errors import SettingError
from tokenreduce.video.types import DecoderName, Request, Seek

MAX_SIZE = 4096
"""Largest side of a decoded square, far above any vision tower's."""

MAX_FRAMES = 1 << 20
"""Twelve days at one frame a second; bounds what planning them takes."""


def check(request: Request) -> None:
    """Raises SettingError for a request no video could meet."""
    if not 1 <= request.frames <= MAX_FRAMES:
        allowed = f"1 to {MAX_FRAMES}" if request.frames > 0 else "1 or more"
        raise SettingError(f"frames is {request.frames}; it can be {allowed}")
    if not 1 <= request.size <= MAX_SIZE:
        raise SettingError(f"frame size is {request.size}; it can be 1 to {MAX_SIZE} pixels")
    for name, value, names in (
        ("decoder", request.decoder, get_args(DecoderName)),
        ("seek", request.seek, get_args(Seek)),
    ):
        if value not in names:
            raise SettingError(f"{name} is {value!r}; it can be {', '.join(names)}")
    if request.fps is not None and not (request.fps > 0 and isfinite(request.fps)):
        raise SettingError(f"fps is {request.fps:g}; it can be any number above 0")
    level = request.skip_duplicates
    if level is not None and not 0 <= level <= 255:
        raise SettingError(f"skip_duplicates is {level:g}; it can be 0 to 255 levels, or off")
    _check_range(request)


def _check_range(request: Request) -> None:
    start, stop = request.start, request.stop
    if not (start >= 0 and isfinite(start)):
        raise SettingError(f"start is {start:g} s; it can be 0 or more")
    if stop is not None and not (stop > start and isfinite(stop)):
        raise SettingError(
            f"stop is {stop:g} s; it can be anything after {start:g} s, where the range starts"
        )
