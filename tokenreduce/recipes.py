"""What a method's name means as a whole setting: at which sites it acts, with which schedule.

A method alone acts at the first of its sites in the order below; some names are compositions, as
their papers use them. Knows nothing about budgets.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from tokenreduce.errors import SettingError
from tokenreduce.methods import METHODS
from tokenreduce.paradigm import Site
from tokenreduce.preset import Preset, Stage
from tokenreduce.strict import unknown

_ORDER: tuple[Site, ...] = ("frames", "clip", "llm", "encoder")

COMPOSITIONS: dict[str, tuple[tuple[Site, str], ...]] = {
    "none": (),
    "aim": (("frames", "aim-merge"), ("llm", "aim-prune")),
    "drift": (("clip", "drift-merge"), ("llm", "ask-prune")),
    "ficoco-vl": (("frames", "ficoco-v"), ("llm", "ficoco-l")),
}
FEWER_FRAMES = "fewer-frames"
"""A control that is no method: as many whole frames as the budget holds, and nothing reduced."""


def recipe_names() -> tuple[str, ...]:
    """All that `--method` takes, sorted."""
    return tuple(sorted({*METHODS, *COMPOSITIONS, FEWER_FRAMES}))


def stages_of(name: str) -> tuple[Stage, ...]:
    """The stages that the name stands for. Raises SettingError for one that there is not."""
    if name in COMPOSITIONS:
        return tuple(Stage(site, METHODS[method]()) for site, method in COMPOSITIONS[name])
    if name == FEWER_FRAMES:
        return ()
    if name not in METHODS:
        raise SettingError(unknown("method", name, recipe_names()))
    method = METHODS[name]()
    site = next(site for site in _ORDER if site in method.sites)
    return (Stage(site, method),)


def with_method(preset: Preset, name: str) -> Preset:
    """The preset's frames and share with another method. What acts only inside the LLM, or not at
    all, lets all tokens in."""
    stages = stages_of(name)
    before = any(stage.at != "llm" for stage in stages)
    return replace(preset, stage=stages, keep=preset.keep if before else Fraction(1))
