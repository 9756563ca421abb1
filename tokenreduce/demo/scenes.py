"""Draws scenes of the toy world at random: who appears, where, when, and how the film looks.

A scene depends only on its key, a tuple of integers. Keys begin with a stream number, so that the
clips anybody makes (`CLIPS`) can never be scenes that the demo model was trained on (`TRAINING`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenreduce.demo.world import (
    COLORS,
    DIRECTIONS,
    PARTS,
    SHAPES,
    SIDE,
    VERSION,
    Look,
    Scene,
    Star,
    Thing,
)

TRAINING, HELD_OUT, CLIPS = 1, 2, 3
MARGIN = 1.0  # world units between a shape and the edge of the frame
_CHECKS = 24  # moments at which overlaps are looked for
_TRIES = 28  # trajectories drawn at once for an object
_CLEAR = 0.92  # centres nearer than this times the sum of radii count as overlapping

Array = NDArray[np.float64]


def sample(
    key: Sequence[int],
    *,
    things: int | None = None,
    duration: float | None = None,
    snap: Sequence[float] | None = None,
) -> Scene:
    """The scene of a key.

    `things` asks for that many objects (fewer when they do not fit), `duration` for a length in
    seconds. `snap` gives times (seconds) of which each star takes one for its middle, so that a
    film sampled at those times shows it; otherwise a star may fall between two sampled frames.
    """
    full_key = (VERSION, *key)
    rng = np.random.default_rng(full_key)
    seconds = float(np.round(rng.uniform(8.0, 60.0), 1)) if duration is None else duration
    mood = rng.random()  # 12 % static, 18 % busy, the rest mixed
    count = int(rng.integers(1, 7)) if things is None else things
    placed: list[Thing] = []
    for shape, color in _identities(rng, count):
        thing = _place(rng, shape, color, placed, seconds, mood, crowded=count > 4)
        if thing is not None:
            placed.append(thing)
    stars = _stars(rng, placed, seconds, snap)
    look = Look(
        key=full_key,
        grey=float(rng.uniform(0.18, 0.53)),
        gain=float(1.0 + 0.12 * rng.uniform(-1, 1)),
        offset=offset(rng),
        softness=float(rng.uniform(1.0, 2.4)) if rng.random() < 0.6 else 0.7,
        noise=float(rng.uniform(0.0, 0.045)),
    )
    return Scene(seconds, tuple(placed), stars, look)


def offset(rng: np.random.Generator) -> tuple[float, float, float]:
    """A colour cast, added to the three channels."""
    red, green, blue = (float(value) for value in 0.04 * rng.uniform(-1, 1, 3))
    return red, green, blue


def _identities(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Pairs of shape and colour, never the same pair twice."""
    colors, shapes = list(COLORS), list(SHAPES)
    distinct_shapes = count <= len(SHAPES) and rng.random() < 0.75
    distinct_colors = rng.random() < 0.75
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        shape, color = str(rng.choice(shapes)), str(rng.choice(colors))
        if distinct_shapes and any(shape == other for other, _ in pairs):
            continue
        if distinct_colors and any(color == other for _, other in pairs):
            continue
        if (shape, color) not in pairs:
            pairs.append((shape, color))
    return pairs


def _place(
    rng: np.random.Generator,
    shape: str,
    color: str,
    placed: list[Thing],
    seconds: float,
    mood: float,
    crowded: bool,
) -> Thing | None:
    """A trajectory that keeps clear of those already placed, or None when there is no room."""
    radius = float(rng.uniform(7.8, 9.6) if crowded else rng.uniform(8.0, 10.5))
    low, high = radius + MARGIN, SIDE - radius - MARGIN
    room = high - low
    static = mood < 0.12
    stays = static or rng.random() < (0.2 if crowded else 0.16)
    names = list(DIRECTIONS)
    direction = np.where(stays, 4, rng.integers(0, 4, _TRIES))
    heading = np.array([DIRECTIONS[name] for name in names])[direction]  # [tries, 2]
    travel = np.minimum(rng.uniform(0.36, 0.75, _TRIES) * SIDE, room)[:, None] * heading
    lows, highs = low + np.maximum(-travel, 0.0), high - np.maximum(travel, 0.0)
    start = lows + rng.random((_TRIES, 2)) * (highs - lows)
    begins = np.where(rng.random(_TRIES) < 0.45, 0.0, rng.uniform(0.06, 0.6, _TRIES))
    begins = begins if not static or rng.random() < 0.5 else np.zeros(_TRIES)
    leaves = rng.random(_TRIES) < (0.75 if mood > 0.82 else 0.4)
    shortest = np.minimum(begins + (0.3 if crowded else 0.4), 0.9)
    ends = np.where(leaves, rng.uniform(shortest, 0.97), 1.01)
    share = rng.uniform(0.25, 0.9, _TRIES)
    last = np.minimum(ends, 1.0)
    departs = begins + rng.random(_TRIES) * (1.0 - share) * (last - begins)
    arrives = departs + share * (last - begins)

    moments = (np.arange(_CHECKS) + 0.5) / _CHECKS
    part = np.clip((moments - departs[:, None]) / (arrives - departs)[:, None], 0.0, 1.0)
    path = start[:, None] + part[:, :, None] * travel[:, None]  # [tries, checks, 2]
    seen = (moments >= begins[:, None]) & (moments < ends[:, None])
    free = np.ones(_TRIES, bool)
    for other in placed:
        line = np.array([other.position(moment * seconds) for moment in moments])
        there = np.array([other.visible(moment * seconds) for moment in moments])
        gap = np.hypot(path[..., 0] - line[:, 0], path[..., 1] - line[:, 1])
        close = gap < _CLEAR * (radius + other.radius)
        free &= ~(close & seen & there).any(1)
    if not free.any():
        return None
    one = int(np.argmax(free))
    x, y = (float(value) for value in start[one])
    return Thing(
        shape=shape,
        color=color,
        radius=radius,
        start=(x, y),
        end=(x + float(travel[one, 0]), y + float(travel[one, 1])),
        direction=names[int(direction[one])],
        appears=float(begins[one]) * seconds,
        vanishes=float(ends[one]) * seconds,
        departs=float(departs[one]) * seconds,
        arrives=float(arrives[one]) * seconds,
    )


def _stars(
    rng: np.random.Generator,
    placed: list[Thing],
    seconds: float,
    snap: Sequence[float] | None,
) -> tuple[Star, ...]:
    wanted = int(rng.choice(3, p=(0.28, 0.44, 0.28)))
    colors = [str(color) for color in rng.permutation(list(COLORS))]
    stars: list[Star] = []
    for color in colors[:wanted]:
        for _ in range(12):
            star = _star(rng, color, seconds, snap)
            middle = (star.appears + star.vanishes) / 2
            crowd = [
                (thing.position(middle), thing.radius) for thing in placed if thing.visible(middle)
            ]
            x, y = star.place
            clear = all(
                np.hypot(x - ox, y - oy) > _CLEAR * (radius + star.radius)
                for (ox, oy), radius in crowd
            )
            apart = all(
                max(star.appears, other.appears) - min(star.vanishes, other.vanishes)
                > 0.09 * seconds
                for other in stars
            )
            if clear and apart:
                stars.append(star)
                break
    return tuple(sorted(stars, key=lambda star: star.appears))


def _star(
    rng: np.random.Generator, color: str, seconds: float, snap: Sequence[float] | None
) -> Star:
    part = str(rng.choice(list(PARTS)))
    low, high = PARTS[part]
    span = float(rng.uniform(0.02, 0.07))
    radius = float(rng.uniform(8.4, 10.4))
    middle = float(rng.uniform(max(low, span / 2), min(high, 1.0 - span / 2)))
    if snap is not None:
        moments = np.asarray(snap) / seconds
        inside = moments[(moments >= low) & (moments <= high)]
        if len(inside):
            middle = float(rng.choice(inside)) + span * float(rng.uniform(-0.4, 0.4))
    x, y = rng.uniform(radius + MARGIN, SIDE - radius - MARGIN, 2)
    begin, end = (middle - span / 2) * seconds, (middle + span / 2) * seconds
    return Star(color, radius, (float(x), float(y)), begin, end, part)
