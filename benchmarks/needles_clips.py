"""The clips of benchmarks/needles.py and the ways of asking about them; asks nothing itself.

An hour is a scene of the toy world that lasts 3,600 s, filmed at one picture a second, with every
star cut down to NEEDLE_SECONDS: the shortest that is claimed. Still and busy clips are ordinary
ones of the world, picked by what moves in them. A clip depends on its seed and number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Literal, get_args

import numpy as np

from benchmarks.asking import Cell
from tokenreduce.demo import clips, questions, scenes
from tokenreduce.demo.questions import Question
from tokenreduce.demo.world import VERSION, Scene
from tokenreduce.plan import Overrides
from tokenreduce.preset import load_preset

Group = Literal["hour", "static", "busy"]
"""hour: about needles alone. static: nothing moves. busy: at least BUSY things move."""

Film = tuple[Scene, int, tuple[Question, ...]]
"""A scene, its frames a second, and what is asked about it."""

HOUR = 3600.0
NEEDLE_SECONDS = 58.0
BUDGET = 2000
BUSY = 4
EVERY_SECOND_CLIPS = 16
FRAMES = (64, 128, 256)
PRESETS = ("balanced", "aim")
SKIPPING = ("off", "auto")
SAMPLINGS: Mapping[str, Overrides] = {
    "default": Overrides(),
    "fps 2, budget 336": Overrides(fps=2, budget=336),
}


def cells() -> list[Cell]:
    return [*_of_hours(), *_of_repeats()]


def _of_hours() -> Iterator[Cell]:
    """By preset: frames, with and without the times told, by the second, and without repeats."""
    ways: dict[str, Overrides] = {}
    for frames in FRAMES:
        ways[f"{frames} frames"] = Overrides(frames=frames)
        ways[f"{frames} frames, no times"] = Overrides(frames=frames, time_text=False)
    ways["256 frames, skip auto"] = Overrides(frames=256, skip_duplicates="auto")
    ways["fps 1, at most 256"] = Overrides(fps=1, max_frames=256)
    for preset in PRESETS:
        for name, over in ways.items():
            yield _cell("hour", preset, name, replace(over, budget=BUDGET))
        every = Overrides(fps=1, budget=BUDGET)  # 3,600 frames: less than a token for each
        yield replace(_cell("hour", preset, "fps 1", every), clips=EVERY_SECOND_CLIPS)


def _of_repeats() -> Iterator[Cell]:
    for group in ("static", "busy"):
        for name, over in SAMPLINGS.items():
            for skip in SKIPPING:
                way = replace(over, skip_duplicates=skip)
                yield _cell(group, "balanced", f"{name}, skip {skip}", way)


def _cell(group: str, preset: str, way: str, over: Overrides) -> Cell:
    extra = {"group": group, "preset": preset, "way": way}
    return Cell(f"{group}/{preset}/{way}", load_preset(preset), over, extra=extra)


def film(group: str, seed: int, index: int) -> Film:
    """Clip `index` of a group. Raises ValueError for a group there is not."""
    makers: Mapping[str, Callable[[int, int], Film]] = {
        "hour": hour,
        "static": lambda *key: _nth("static", *key),
        "busy": lambda *key: _nth("busy", *key),
    }
    if group not in makers:
        raise ValueError(f"{group}: one of {', '.join(get_args(Group))}")
    return makers[group](seed, index)


def hour(seed: int, index: int, seconds: float = HOUR) -> Film:
    """`seconds` of the world, stars for NEEDLE_SECONDS / HOUR of it, and all questions about stars:
    also whether there is one where there is none."""
    scene = scenes.sample((scenes.CLIPS, seed, index), duration=seconds)
    half = seconds * NEEDLE_SECONDS / HOUR / 2
    stars = []
    for star in scene.stars:
        middle = (star.appears + star.vanishes) / 2
        stars.append(replace(star, appears=middle - half, vanishes=middle + half))
    scene = replace(scene, stars=tuple(stars))
    rng = np.random.default_rng((VERSION, scenes.CLIPS, seed, index, 2))
    asked = [one for one in questions.ask(scene, rng) if one.kind in questions.NEEDLES]
    return scene, 1, tuple(asked)


def _nth(group: str, seed: int, index: int) -> Film:
    return clips.draw(seed, _numbers(group, seed, index // 8 * 8 + 8)[index])


@cache
def _numbers(group: str, seed: int, count: int) -> tuple[int, ...]:
    """Of the first `count` clips of a seed that are of the group."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        things = clips.draw(seed, number)[0].things
        moving = sum(thing.direction != "still" for thing in things)
        if things and (moving == 0 if group == "static" else moving >= BUSY):
            found.append(number)
        number += 1
    return tuple(found)
