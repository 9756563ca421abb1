"""Small generated videos for whoever needs one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

# A loaded machine is no reason to fail: deadlines measure the neighbours.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

WriteClip = Callable[..., Path]


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) RGB: a gradient that moves, no two of 250 alike even after compression."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = (2 * x + 3 * index) % 256
    image[..., 1] = (3 * y + index) % 256
    image[..., 2] = (17 * index) % 256
    return image


def _write(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 60,
    size: tuple[int, int] = (96, 64),
    rate: int | Fraction = 30,
    gop: int = 12,
    pixels: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    format: str | None = None,
    pts: Sequence[int] | None = None,
    tick: Fraction | None = None,
) -> Path:
    """Encodes `frames` pictures, or one for each of `pts` in units of `tick` seconds."""
    with av.open(str(path), "w", format=format, container_options=dict(container or {})) as file:
        stream: Any = file.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = gop
        unit = tick or 1 / Fraction(rate)
        if tick is not None:
            stream.codec_context.time_base = tick
        for index, time in enumerate(range(frames) if pts is None else pts):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = time, unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write_clip() -> WriteClip:
    """Encodes a clip; its keywords are those of `_write`."""
    return _write


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 96 x 64 H.264 at 30 frames a second, key frames every 12."""
    return _write(tmp_path_factory.mktemp("clips") / "tiny.mp4")
