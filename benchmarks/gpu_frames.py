"""Frames for benchmarks/gpu.py: made in memory, replayed from memory, or of a generated film."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from tokenreduce.subject import Footage
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import End, Frame, Probe, Request

POOL = 32
"""Different pictures that made frames take turns with: noise, none like the one before."""


@dataclass(frozen=True)
class Made:
    """Stands where the decoder does, and gives frames that cost next to nothing. size: pixels."""

    size: int
    pool: tuple[Frame, ...] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        shape = (self.size, self.size, 3)
        made = (random.integers(0, 256, shape, np.uint8) for _ in range(POOL))
        object.__setattr__(self, "pool", tuple(Frame(0.0, pixels) for pixels in made))

    def stream(self, path: str, request: Request, probe: Probe) -> Iterator[Frame | End]:
        """As many as are asked for, evenly over the video; at a rate, one at each moment."""
        step = probe.seconds / max(1, request.frames)
        count = request.frames
        if request.fps is not None:
            step = 1 / request.fps
            count = min(count, int(probe.seconds * request.fps))
        for index in range(count):
            yield Frame(index * step, self.pool[index % POOL].pixels)
        yield End(count, True, (count - 1) * step)

    @property
    def decoder(self) -> Decoder:
        return cast(Decoder, self)


@dataclass
class Replayed:
    """What another decoder gives, once, and after that from memory."""

    source: Any
    items: list[Any] | None = None
    order: tuple[Any, ...] = ()

    def stream(self, *order: Any) -> Iterator[Any]:
        if self.items is None:
            self.order, self.items = order, list(self.source.stream(*order))
        yield from self.items

    @property
    def decoder(self) -> Decoder:
        return cast(Decoder, self)


def footage(seconds: float) -> Footage:
    """A video that is nowhere, for made frames."""
    probe = Probe("made.mp4", seconds, 1280, 720, 25.0, "h264", int(seconds * 25), 0, 0.0, seconds)
    return Footage(probe)


def no_film() -> str | None:
    """Why no film can be made and decoded here; None where it can."""
    return None if find_spec("av") is not None else "not done: av is not installed"


def film(folder: Path, seconds: float, size: tuple[int, int]) -> Path:
    """H.264 of that length in which everything moves, made once. size: width, height."""
    from benchmarks import long_files

    path = folder / f"film-of-{seconds:g}.mp4"
    return path if path.exists() else long_files.make(path, seconds, "busy", size=size)
