"""Files as they come from anywhere, written at test time, and one decoder for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from tokenreduce.video.decoder import Decoder
from tokenreduce.video.pixels import resized, rgb
from tokenreduce.video.types import Limits

SIZE = 48
FASTSTART = {"container": {"movflags": "faststart"}}
REALTIME = {"deadline": "realtime", "cpu-used": "8"}

# Endings, and how such a file is written.
CONTAINERS: dict[str, dict[str, Any]] = {
    "mp4": FASTSTART,
    "mkv": {},
    "webm": {"codec": "libvpx-vp9", "options": REALTIME},
    "ts": {},
    "avi": {"codec": "mpeg4"},
    "flv": {},
    "mpg": {"codec": "mpeg2video"},
}


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits(stall_seconds=20)) as shared:
        yield shared


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., Path]
) -> Callable[[str], Path]:
    """Two seconds, 60 frames, in the container of that ending."""
    folder = tmp_path_factory.mktemp("written")

    def find(ending: str) -> Path:
        path = folder / f"whole.{ending}"
        return path if path.exists() else write_clip(path, **CONTAINERS[ending])

    return find


@pytest.fixture(scope="session")
def pictures() -> Callable[[Path], list[NDArray[np.uint8]]]:
    """Every frame of a file as a decode from start to end gives it, resized to SIZE."""

    def read(path: Path) -> list[NDArray[np.uint8]]:
        reformatter = VideoReformatter()
        with av.open(str(path)) as file:
            return [resized(rgb(frame, reformatter), SIZE) for frame in file.decode(video=0)]

    return read


@pytest.fixture(scope="session")
def with_sound(write_clip: Callable[..., Path]) -> Callable[..., Path]:
    """A copy of a clip with a silent sound track, its pictures shifted by `lead` seconds."""

    def write(clip: Path, path: Path, *, seconds: float, lead: float = 0.0) -> Path:
        with av.open(str(clip)) as source, av.open(str(path), "w") as target:
            pictures: Any = source.streams.video[0]
            copy = target.add_stream_from_template(pictures)
            sound: Any = target.add_stream("aac", rate=48000, layout="mono")
            shift = round(lead / pictures.time_base)
            for packet in source.demux(pictures):
                if packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = copy
                    target.mux(packet)
            for index in range(round(seconds * 48000 / 1024)):
                frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
                frame.planes[0].update(bytes(4096))
                frame.sample_rate, frame.pts = 48000, index * 1024
                frame.time_base = Fraction(1, 48000)
                target.mux(sound.encode(frame))
            target.mux(sound.encode(None))
        return path

    return write
