"""What counts as a repeat: how far static scenes, small things, fades and pans are from "auto".

    python -m benchmarks.repeats --save

Generated H.264, 1280 x 720 with sensor noise and the demo world's clips, at qualities from crf 18
to 32. `change` is what `tokenreduce.video.repeats` compares with its threshold, levels of 255. See
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from benchmarks.long_files import encode
from benchmarks.record import write
from tokenreduce.demo import clips
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.pictures import Coded
from tokenreduce.video.repeats import AUTO, SIDE, change
from tokenreduce.video.types import Frame, Repeat, Request

WIDTH, HEIGHT, RATE = 1280, 720, 25
QUALITIES = (18, 25, 32)
GRAINS = (0, 3, 8)
DOTS = tuple((side, contrast) for side in (8, 12, 16, 24) for contrast in (40, 80, 120))
HOLD = 6
"""Frames that each dot is there."""

Picture = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write results/repeats.json")
    parser.add_argument("--clips", type=int, default=14, help="of the demo world, a quality")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, Decoder() as decoder:
        path = Path(folder) / "clip.mp4"
        cases = [(grain, crf) for grain in GRAINS for crf in QUALITIES]
        result = {
            "auto": AUTO,
            "static and dots": [_static(path, *case) for case in cases],
            "fades and pans": [_moving(decoder, path, *case) for case in MOVING],
            "demo world": [_world(decoder, path, crf, options.clips) for crf in (18, 23, 32)],
        }
    print(json.dumps(result, indent=1))
    if options.save:
        write("repeats", result, {"clips": options.clips})
    return 0


def _scene() -> Picture:
    """Coarse shades with finer texture."""
    random = np.random.default_rng(0)
    coarse = random.integers(60, 190, (HEIGHT // 40, WIDTH // 40, 3)).repeat(40, 0).repeat(40, 1)
    fine = random.integers(-10, 11, (HEIGHT // 4, WIDTH // 4, 1)).repeat(4, 0).repeat(4, 1)
    return (coarse + fine).astype(np.float32)


def _film(
    path: Path, picture: Callable[[int], Picture], frames: int, crf: int, grain: float
) -> None:
    random = np.random.default_rng(1)

    def draw(index: int) -> NDArray[np.uint8]:
        noise = random.normal(0, grain, (HEIGHT, WIDTH, 1)) if grain else 0
        drawn: NDArray[np.uint8] = np.clip(picture(index) + noise, 0, 255).astype(np.uint8)
        return drawn

    options = {"crf": str(crf), "preset": "veryfast"}
    encode(path, draw, frames, (WIDTH, HEIGHT), RATE, RATE, options)


def _static(path: Path, grain: float, crf: int) -> dict[str, Any]:
    """The largest change between frames of nothing, and the change each dot makes."""
    scene = _scene()

    def picture(index: int) -> Picture:
        which = index // HOLD - 2
        if not 0 <= which < len(DOTS):
            return scene
        drawn = scene.copy()
        side, contrast = DOTS[which]
        y, x = 107 + 31 * which, 97 * which + 11
        spot = drawn[y : y + side, x : x + side]
        spot += contrast if spot.mean() < 128 else -contrast
        return drawn

    _film(path, picture, HOLD * (len(DOTS) + 2), crf, grain)
    shown = list(_thumbnails(path))
    still = shown[: 2 * HOLD]
    none = max(change(a, b) for i, a in enumerate(still) for b in still[i + 1 :])
    dots = {
        f"{side} px, {contrast}": change(shown[HOLD], shown[HOLD * (i + 2) + 2])
        for i, (side, contrast) in enumerate(DOTS)
    }
    return {"grain": grain, "crf": crf, "nothing": none, **dots}


def _thumbnails(path: Path) -> Iterator[NDArray[np.uint8]]:
    reformatter = VideoReformatter()
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            yield Coded(frame, reformatter, reformatter).thumbnail(SIDE)


def _fade(seconds: float) -> Callable[[int], Picture]:
    scene = _scene()
    return lambda index: scene * np.float32(max(0, 1 - index / RATE / seconds))


def _pan(pixels_a_second: float) -> Callable[[int], Picture]:
    scene = _scene()
    return lambda index: np.roll(scene, -round(index / RATE * pixels_a_second), 1)


MOVING = (
    ("fade to black in 60 s", _fade, 60.0),
    ("fade to black in 15 s", _fade, 15.0),
    ("pan, 1 pixel/s", _pan, 1.0),
    ("pan, 4 pixels/s", _pan, 4.0),
    ("pan, 16 pixels/s", _pan, 16.0),
)


def _moving(
    decoder: Decoder, path: Path, name: str, make: Callable[[float], Any], speed: float
) -> dict[str, Any]:
    """Of 12 seconds at 2 frames a second, how many are sent."""
    _film(path, make(speed), 12 * RATE, 25, 3)
    return {"case": name, **_counted(decoder, path)}


def _counted(decoder: Decoder, path: Path) -> dict[str, int]:
    items = list(decoder.stream(path, Request(1000, 8, fps=2, skip_duplicates=AUTO)))
    return {
        "sent": sum(isinstance(item, Frame) for item in items),
        "repeats": sum(isinstance(item, Repeat) for item in items),
    }


def _world(decoder: Decoder, path: Path, crf: int, count: int) -> dict[str, Any]:
    """How much of the demo world repeats, and frames left out that show another set of things."""
    sent = repeats = wrong = 0
    for index in range(count):
        scene, rate, _ = clips.draw(77, index)
        clips.write(path, scene, rate, crf=crf)
        visible_at = [
            *(thing.visible for thing in scene.things),
            *(star.visible for star in scene.stars),
        ]
        shown: list[bool] = []
        for item in decoder.stream(path, Request(1000, 8, fps=2, skip_duplicates=AUTO)):
            if isinstance(item, Frame | Repeat):
                visible = [at(item.seconds) for at in visible_at]
                shown = visible if isinstance(item, Frame) else shown
                sent += isinstance(item, Frame)
                repeats += isinstance(item, Repeat)
                wrong += visible != shown
    return {"crf": crf, "clips": count, "sent": sent, "repeats": repeats, "wrongly left out": wrong}


if __name__ == "__main__":
    sys.exit(main())
