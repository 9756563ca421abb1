"""Clips of every kind, each encoded once a session, and one decoder for all who do not harm it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tokenreduce.video.decoder import Decoder
from tokenreduce.video.pixels import resized, rgb

SIZE = 48
QUIET_265 = {"x265-params": "log-level=none:bframes=3"}

# name of the file: how it is written
CLIPS: dict[str, dict[str, Any]] = {
    "gop12.mp4": {"options": {"bf": "3"}},
    "gop250.mp4": {"gop": 250, "options": {"bf": "3"}},
    "no-b.mkv": {"options": {"bf": "0"}},
    "b.mkv": {"options": {"bf": "3"}, "rate": Fraction(30000, 1001)},
    "open-gop.ts": {"gop": 15, "options": {"x264-params": "open-gop=1:bframes=5"}},
    "interlaced.ts": {"gop": 15, "options": {"x264-params": "tff=1:bframes=3"}},
    "refresh.mp4": {
        "frames": 150,
        "options": {"x264-params": "intra-refresh=1:keyint=30"},
    },
    "b.ts": {"options": {"bf": "3"}},
    "b.flv": {"options": {"bf": "3"}},
    "b.avi": {"options": {"bf": "3"}},
    "fragmented.mp4": {
        "options": {"bf": "3"},
        "container": {"movflags": "frag_keyframe+empty_moov"},
    },
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "wmv.asf": {"codec": "wmv2"},
    "hevc.mp4": {"codec": "libx265", "options": QUIET_265},
    "hevc10.mkv": {"codec": "libx265", "pixels": "yuv420p10le", "options": QUIET_265},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "auto-alt-ref": "1"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "animation.gif": {"codec": "gif", "pixels": "rgb8", "rate": 25},
    "odd.mp4": {"size": (97, 65), "pixels": "yuv444p"},
}


@pytest.fixture(scope="session")
def clip(
    tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., Path]
) -> Callable[[str], Path]:
    """The clip of CLIPS with that name."""
    folder = tmp_path_factory.mktemp("clips")

    def find(name: str) -> Path:
        path = folder / name
        return path if path.exists() else write_clip(path, **CLIPS[name])

    return find


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    with Decoder() as shared:
        yield shared


@pytest.fixture(scope="session")
def truth() -> Callable[[Path], list[tuple[float, NDArray[np.uint8]]]]:
    """(seconds after the first, resized pixels) of every frame, decoded from start to end."""

    def read(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
        from av.video.reformatter import VideoReformatter

        with av.open(str(path)) as file:
            frames = list(file.decode(video=0))
            start = float(frames[0].time or 0)
            reformatter = VideoReformatter()
            return [
                (float(frame.time or 0) - start, resized(rgb(frame, reformatter), SIZE))
                for frame in frames
            ]

    return read


@pytest.fixture(scope="session")
def turned() -> Callable[[Path, Path, tuple[int, int, int, int]], Path]:
    """A copy of an mp4 whose track is displayed by the matrix (a, b, c, d)."""

    def turn(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
        data = bytearray(source.read_bytes())
        a, b, c, d = (value << 16 for value in matrix)
        # Version and flags, times, track, duration, reserved, layer, volume: 4 + 36 bytes.
        at = data.index(b"tkhd") + 4 + 40
        data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
        return path

    return turn
