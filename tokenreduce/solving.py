"""Meets a mean of visual tokens over the layers of the LLM; counts only, knows no model.

What a prefill costs follows the tokens each layer works on, so methods are compared at an equal
mean over layers, wherever they remove.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

from tokenreduce.engine.types import Prune
from tokenreduce.errors import SettingError
from tokenreduce.schedule import Schedule

_FINEST = 1 << 20
"""Steps that a schedule's ease is searched in."""


def per_layer(schedules: Sequence[Schedule], depth: int, visual: int) -> tuple[int, ...]:
    """Visual tokens each layer attends to: what left the one before it, by the strictest."""
    counts = [visual]
    for layer in range(depth - 1):
        counts.append(min([counts[-1], *(s.kept(layer, depth, visual) for s in schedules)]))
    return tuple(counts)


def mean(schedules: Sequence[Schedule], depth: int, visual: int) -> Fraction:
    """Visual tokens a layer attends to on average."""
    return Fraction(sum(per_layer(schedules, depth, visual)), depth)


def entering(wanted: int, schedules: Sequence[Schedule], depth: int, available: int) -> int:
    """The most tokens that may enter the LLM so that, under `schedules`, the mean over its layers
    is at most `wanted`; at least 1, at most `available`."""
    low, high = 1, available
    while low < high:
        middle = (low + high + 1) // 2
        if mean(schedules, depth, middle) <= wanted:
            low = middle
        else:
            high = middle - 1
    return low


def eased(
    prunes: Sequence[Prune],
    wanted: int,
    depth: int,
    visual: int,
    *,
    name: str = "this method",
    less: str = "fewer --frames",
) -> tuple[Prune, ...]:
    """The same methods on schedules of the same shape, as gentle as a mean of at most `wanted`
    tokens over the layers allows.

    Raises SettingError, naming the floor, where the shape removes too late to reach it; name: of
    the methods, less: how to look at less, for its message.
    """

    def at(ease: Fraction) -> tuple[Schedule, ...]:
        return tuple(prune.schedule.eased(ease) for prune in prunes)

    floor = mean(at(Fraction(0)), depth, visual)
    if floor > wanted:
        raise SettingError(
            f"a mean budget of {wanted}: of {visual} visual tokens {name}, which acts only inside "
            f"the LLM, leaves at least {ceil(floor)} a layer: give that, or {less}"
        )
    low, high = 0, _FINEST
    while low < high:
        middle = (low + high + 1) // 2
        if mean(at(Fraction(middle, _FINEST)), depth, visual) <= wanted:
            low = middle
        else:
            high = middle - 1
    schedules = at(Fraction(low, _FINEST))
    return tuple(replace(p, schedule=s) for p, s in zip(prunes, schedules, strict=True))
