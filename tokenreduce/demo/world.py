"""A toy video world: coloured shapes that appear, move and vanish, and stars that flash briefly.

Everything is drawn in world units on a square of `SIDE` units, at any pixel size, by signed
distances with anti-aliased edges. A scene is a pure function of its key, so a clip's questions can
be asked again from the key alone. Only numpy is used: the model never sees anything but pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
SIDE = 64.0  # world units along an edge of the frame
NATIVE = 96  # pixels along an edge at which grain is defined and the demo model looks

SHAPES = ("circle", "square", "triangle", "cross")
STAR = "star"  # the only short-lived shape
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.12, 0.12),
    "green": (0.12, 0.70, 0.20),
    "blue": (0.15, 0.28, 0.92),
    "yellow": (0.95, 0.86, 0.12),
    "purple": (0.60, 0.16, 0.72),
    "white": (0.96, 0.96, 0.96),
}
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "still": (0.0, 0.0),
}
# Where in a clip a star may be centred, as fractions of the clip: gaps keep the three words apart.
PARTS: dict[str, tuple[float, float]] = {
    "beginning": (0.0, 0.29),
    "middle": (0.38, 0.62),
    "end": (0.71, 1.0),
}

Floats = NDArray[np.floating[Any]]
Frame = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Thing:
    """A long-lived shape. Lengths in world units, times in seconds; y grows downwards."""

    shape: str
    color: str
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]
    direction: str
    appears: float
    vanishes: float
    departs: float
    arrives: float

    def visible(self, seconds: float) -> bool:
        return self.appears <= seconds < self.vanishes

    def position(self, seconds: float) -> tuple[float, float]:
        part = (seconds - self.departs) / max(self.arrives - self.departs, 1e-9)
        part = min(max(part, 0.0), 1.0)
        (x0, y0), (x1, y1) = self.start, self.end
        return x0 + part * (x1 - x0), y0 + part * (y1 - y0)


@dataclass(frozen=True, slots=True)
class Star:
    """The needle: a star visible for 2-7 % of the clip. Units as in `Thing`."""

    color: str
    radius: float
    place: tuple[float, float]
    appears: float
    vanishes: float
    part: str

    def visible(self, seconds: float) -> bool:
        return self.appears <= seconds < self.vanishes


@dataclass(frozen=True, slots=True)
class Look:
    """The background and the camera of a scene, the same in all its frames."""

    key: tuple[int, ...]
    grey: float
    gain: float
    offset: tuple[float, float, float]
    softness: float  # width of an edge, world units
    noise: float  # standard deviation of the per-frame grain, in [0, 1] intensities


@dataclass(frozen=True, slots=True)
class Scene:
    """All that happens in one clip of `duration` seconds."""

    duration: float
    things: tuple[Thing, ...]
    stars: tuple[Star, ...]
    look: Look


def distance(shape: str, x: Floats, y: Floats, radius: float) -> Floats:
    """Signed distance (world units, negative inside) from points relative to the shape's centre."""
    ax, ay = np.abs(x), np.abs(y)
    found: Floats
    if shape == "circle":
        found = np.hypot(x, y) - radius
    elif shape == "square":
        found = np.maximum(ax, ay) - 0.86 * radius
    elif shape == "triangle":
        side = (1.7 * ax - 0.95 * (y + radius)) / 1.947
        found = np.maximum(y - 0.7 * radius, side)
    elif shape == "cross":
        arm = 0.34 * radius
        level = np.maximum(ax - radius, ay - arm)
        upright = np.maximum(ax - arm, ay - radius)
        found = np.minimum(level, upright)
    else:
        found = _five_points(ax, -y, radius)
    return found


def _five_points(x: Floats, y: Floats, radius: float) -> Floats:
    """Five-pointed star, folded into one of its ten congruent parts; y grows upwards."""
    c, s = math.cos(math.pi / 5), math.sin(math.pi / 5)
    for kx in (c, -c):
        fold = 2.0 * np.maximum(kx * x - s * y, 0.0)
        x, y = x - fold * kx, y + fold * s
    x, y = np.abs(x), y - radius
    bx, by = 0.52 * s, 0.52 * c - 1.0
    along = np.clip((x * bx + y * by) / (bx * bx + by * by), 0.0, radius)
    signed: Floats = np.hypot(x - bx * along, y - by * along) * np.sign(y * bx - x * by)
    return signed


def patch(
    shape: str, center: tuple[float, float], radius: float, size: int, softness: float
) -> tuple[slice, slice, Floats]:
    """The rows, columns and coverage (0..1) that a shape has in a frame of `size` pixels."""
    unit = size / SIDE
    reach = (radius + softness) * unit + 1.0
    cx, cy = center[0] * unit, center[1] * unit
    left, right = max(int(cx - reach), 0), min(int(cx + reach) + 1, size)
    top, bottom = max(int(cy - reach), 0), min(int(cy + reach) + 1, size)
    x = ((np.arange(left, right, dtype=np.float32) + 0.5) / unit - center[0])[None, :]
    y = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / unit - center[1])[:, None]
    edge = max(softness, 1.0 / unit)
    cover = np.clip(0.5 - distance(shape, x, y, radius) / np.float32(edge), 0.0, 1.0)
    return slice(top, bottom), slice(left, right), np.asarray(cover, np.float32)


class Renderer:
    """Draws the frames of one scene, `size` pixels along an edge."""

    def __init__(self, scene: Scene, size: int = NATIVE) -> None:
        self.scene, self.size = scene, size
        self._grain = (np.arange(size) * NATIVE) // size  # pixel -> cell of the grain
        self._background = self._paint_background()

    def _paint_background(self) -> Floats:
        look = self.scene.look
        rng = np.random.default_rng((*look.key, 1))
        coarse = 0.13 * rng.standard_normal((5, 5, 1)) + 0.045 * rng.standard_normal((5, 5, 3))
        at = (np.arange(self.size) + 0.5) / self.size * 4.0
        near = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(5)[None, :]))
        smooth = np.einsum("ia,abc,jb->ijc", near, coarse, near, optimize=True)
        texture = 0.035 * rng.standard_normal((NATIVE, NATIVE, 1))
        texture = texture[self._grain][:, self._grain]
        whole: Floats = np.clip(look.grey + smooth + texture, 0.02, 0.85)
        return whole.astype(np.float32)

    def frame(self, seconds: float) -> Frame:
        """The picture at a time, uint8 RGB [size, size, 3]."""
        scene, look = self.scene, self.scene.look
        image = self._background.copy()
        for thing in scene.things:
            if thing.visible(seconds):
                self._draw(image, thing.shape, thing.color, thing.position(seconds), thing.radius)
        for star in scene.stars:
            if star.visible(seconds):
                self._draw(image, STAR, star.color, star.place, star.radius)
        image *= np.float32(look.gain)
        image += np.asarray(look.offset, np.float32)
        if look.noise > 0:
            rng = np.random.default_rng((*look.key, 2, round(seconds * 1000)))
            grain = rng.standard_normal((NATIVE, NATIVE, 3), dtype=np.float32)
            image += np.float32(look.noise) * grain[self._grain][:, self._grain]
        return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    def _draw(
        self, image: Floats, shape: str, color: str, center: tuple[float, float], radius: float
    ) -> None:
        rows, columns, cover = patch(shape, center, radius, self.size, self.scene.look.softness)
        area = image[rows, columns]
        area += cover[:, :, None] * (np.asarray(COLORS[color], np.float32) - area)


def render(scene: Scene, times: Sequence[float], size: int = NATIVE) -> Frame:
    """Frames at the given times (seconds), uint8 RGB [times, size, size, 3]."""
    renderer = Renderer(scene, size)
    return np.stack([renderer.frame(float(at)) for at in times])
