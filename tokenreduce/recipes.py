"""What a method's name means as a whole setting: at which sites it acts, with which schedule.

A method alone acts at the first of its sites in the order below; some names are compositions, as
their papers use them. What reads images was published inside the encoder, and acts there on a model
that makes one token of each patch; a model that pools them needs whole frames, and it acts after.
Knows nothing about budgets.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from tokenreduce.errors import SettingError
from tokenreduce.methods import METHODS
from tokenreduce.models.spec import ModelSpec
from tokenreduce.paradigm import Site
from tokenreduce.preset import Preset, Stage
from tokenreduce.schedule import Ramp, Schedule
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

_ON_VICUNA: dict[str, Schedule] = {"aim-prune": Ramp(Fraction(13, 32), Fraction(21, 32))}
"""Schedules that papers give LLaVA-1.5's LLM (AIM: arXiv 2412.03248, section 4.1)."""


def recipe_names() -> tuple[str, ...]:
    """All that `--method` takes, sorted."""
    return tuple(sorted({*METHODS, *COMPOSITIONS, FEWER_FRAMES}))


def stages_of(name: str, spec: ModelSpec | None = None) -> tuple[Stage, ...]:
    """The stages that the name stands for, on `spec` or on a model of videos. Raises SettingError
    for one that there is not."""
    if name in COMPOSITIONS:
        parts = COMPOSITIONS[name]
    elif name == FEWER_FRAMES:
        parts = ()
    elif name in METHODS:
        sites = METHODS[name]().sites
        parts = ((next(site for site in _ORDER if site in sites), name),)
    else:
        raise SettingError(unknown("method", name, recipe_names()))
    if spec is None or spec.pool != "none":
        return tuple(Stage(site, METHODS[part]()) for site, part in parts)
    return tuple(_of_images(site, part) for site, part in parts)


def _of_images(site: Site, name: str) -> Stage:
    """As published for LLaVA-1.5: inside the encoder what may act there, but for the controls,
    which may act everywhere."""
    method = METHODS[name]()
    if site == "frames" and "encoder" in method.sites and "llm" not in method.sites:
        return Stage("encoder", method)
    return Stage(site, method, _ON_VICUNA.get(name))


def with_method(preset: Preset, name: str, spec: ModelSpec | None = None) -> Preset:
    """The preset's frames and share with another method. What acts only inside the LLM, or not at
    all, lets all tokens in."""
    stages = stages_of(name, spec)
    before = any(stage.at != "llm" for stage in stages)
    return replace(preset, stage=stages, keep=preset.keep if before else Fraction(1))
