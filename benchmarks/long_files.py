"""Hours of H.264 in seconds: one short film, encoded once, its packets over and over.

    python -m benchmarks.long_files runs/hour.mp4 --seconds 3600 --kind busy

Nothing is encoded twice: each turn's packets are written again with shifted times. A film begins
with a key frame that nothing before it is needed for, so any number of turns decodes. Imported by
the benchmarks that need a long video; see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
from numpy.typing import NDArray

Kind = Literal["static", "busy"]
"""static: a lit room seen by a fixed camera, sensor noise and all. busy: everything moves."""

FILM_SECONDS = 20
GOP_SECONDS = 10
GRAIN = 3.0
"""Standard deviation of the sensor's noise, levels of 255."""

Picture = Callable[[int], NDArray[np.uint8]]
"""The RGB picture (h, w, 3) of frame i."""


def make(
    path: Path,
    seconds: float,
    kind: Kind = "static",
    *,
    size: tuple[int, int] = (1280, 720),
    fps: int = 25,
) -> Path:
    """Writes a video of `seconds`, rounded up to whole films of `FILM_SECONDS`; about 1 s an hour
    besides the seconds that the one film takes. size: width, height."""
    film = path.with_name(f"film-{path.name}")
    count = FILM_SECONDS * fps
    options = {"crf": "28" if kind == "static" else "30", "preset": "veryfast"}
    encode(film, _PICTURES[kind](size, count), count, size, fps, GOP_SECONDS * fps, options)
    repeat(film, path, -(-int(seconds * fps) // count))
    film.unlink()
    return path


def encode(
    path: Path,
    picture: Picture,
    frames: int,
    size: tuple[int, int],
    fps: int,
    gop: int,
    options: Mapping[str, str],
) -> Path:
    """H.264 with closed groups of `gop` frames. options: of x264."""
    closed = {"x264-params": f"keyint={gop}:scenecut=0:open-gop=0", **options}
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=fps, options=closed)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        for index in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def repeat(film: Path, path: Path, turns: int) -> Path:
    """`film`, a video at a constant rate, `turns` times in a row."""
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        stream: Any = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        length = round(stream.frames / stream.average_rate / stream.time_base)
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.duration, packet.is_keyframe)
            for packet in source.demux(stream)
            if packet.size
        ]
        for turn in range(turns):
            for data, pts, dts, duration, key in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                packet.duration, packet.is_keyframe = duration, key
                packet.time_base, packet.stream = stream.time_base, copy
                target.mux(packet)
    return path


def _room(size: tuple[int, int], count: int) -> Picture:
    """The same textured picture with fresh noise in every frame."""
    random = np.random.default_rng(0)
    scene = _texture(random, size).astype(np.int16)
    noise = np.rint(random.normal(0, GRAIN, (2 * size[1], 2 * size[0], 1))).astype(np.int16)

    def draw(index: int) -> NDArray[np.uint8]:
        # A window of one field of noise, elsewhere in every frame: drawing it is what takes long.
        y, x = 37 * index % size[1], 53 * index % size[0]
        grain = noise[y : y + size[1], x : x + size[0]]
        picture: NDArray[np.uint8] = np.clip(scene + grain, 0, 255).astype(np.uint8)
        return picture

    return draw


def _drift(size: tuple[int, int], count: int) -> Picture:
    """A texture that moves two pixels a frame, and a bright block that goes the other way."""
    width, height = size
    texture = _texture(np.random.default_rng(1), (width + 2 * count, height))

    def picture(index: int) -> NDArray[np.uint8]:
        image = texture[:, 2 * index :][:, :width].copy()
        x = (width - 80) * (count - index) // count
        image[height // 3 : height // 3 + 60, x : x + 60] = (250, 220, 30)
        return image

    return picture


def _texture(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    cells = random.integers(40, 216, (size[1] // 16 + 1, size[0] // 16 + 1, 3), np.uint8)
    return cells.repeat(16, 0).repeat(16, 1)[: size[1], : size[0]]


_PICTURES: Mapping[Kind, Callable[[tuple[int, int], int], Picture]] = {
    "static": _room,
    "busy": _drift,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--kind", choices=get_args(Kind), default="static")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--fps", type=int, default=25)
    options = parser.parse_args(arguments)
    size = (options.width, options.height)
    make(options.path, options.seconds, options.kind, size=size, fps=options.fps)
    print(f"{options.path}: {options.path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
