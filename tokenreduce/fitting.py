"""Makes a run fit its device: frames a batch in the tower, the budget, the number of frames.

Works on plans and predictions alone. What it changes it says, and what does not fit it refuses
with what would. Loads no model, decodes nothing and knows no question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from tokenreduce.bytesizes import shown
from tokenreduce.errors import CapacityError, SettingError
from tokenreduce.footprint import Footprint
from tokenreduce.models.vision import batch_of
from tokenreduce.plan import Overrides, Plan
from tokenreduce.room import Room
from tokenreduce.sizing import Asked, entering

SHARE = 4
"""The budget is lowered to a quarter of what was planned for as many frames, and no further: then
frames are left out."""


@dataclass(frozen=True)
class Fit:
    """over: what is asked for now; batch: frames that go through the tower together; changed: what
    is other than planned, in words."""

    over: Overrides
    batch: int
    changed: tuple[str, ...]
    found: Footprint


def fitted(asked: Asked, over: Overrides, room: Room, *, lower: bool) -> Fit:
    """The run as asked for if it fits, with as small a batch in the tower as that takes; else, if
    `lower`, with the largest budget that fits, then with the most frames.

    Raises CapacityError, with what would fit, where nothing does or nothing may be lowered.
    """
    usual = batch_of(asked.placement.device)
    plan = asked.plan(over)
    batch = tower_batch(asked, plan, room)
    changed = () if batch == usual else (f"{usual} frames a batch in the tower -> {batch}",)
    search = _Search(asked, over, room, batch, plan)
    if room.holds(found := asked.takes(plan, batch)):
        return Fit(over, batch, changed, found)
    if not lower:
        raise CapacityError(search.refusal(found))
    made = search.lowered()
    if made is None:
        raise CapacityError(search.refusal(found))
    then = asked.plan(made)
    return Fit(made, batch, (*changed, *_changes(plan, then)), asked.takes(then, batch))


def tower_batch(asked: Asked, plan: Plan, room: Room | None) -> int:
    """The largest batch with which the tower fits; 1 where none does."""
    batch = batch_of(asked.placement.device)
    while room and batch > 1 and not room.holds(_only_tower(asked.takes(plan, batch))):
        batch //= 2
    return batch


def offers(asked: Asked, over: Overrides, room: Room, batch: int) -> tuple[str, ...]:
    """Settings that would fit, each by itself, as they are given."""
    return tuple(_Search(asked, over, room, batch, asked.plan(over)).offers())


def _only_tower(found: Footprint) -> Footprint:
    return replace(found, stages=(found.of("encode"),))


def _changes(before: Plan, after: Plan) -> tuple[str, ...]:
    told = []
    if after.frames != before.frames:
        told.append(f"{before.frames:,} frames -> {after.frames:,}")
    if entering(after) != entering(before):
        told.append(f"a budget of {entering(before):,} visual tokens -> {entering(after):,}")
    return tuple(told)


@dataclass(frozen=True)
class _Search:
    """For smaller settings that fit. plan: as asked for."""

    asked: Asked
    over: Overrides
    room: Room
    batch: int
    plan: Plan

    def lowered(self) -> Overrides | None:
        frames, tokens = self.plan.frames, self._tokens
        if (found := self._most_tokens(self.over, tokens)) is not None:
            return found
        if self.plan.pictures:
            return None

        def thinned(count: int) -> Overrides:
            return self._frames(count)

        def least(count: int) -> Overrides:
            return self._with(thinned(count), max(1, tokens * count // frames // SHARE))

        count = _largest(lambda count: self._fits(least(count)), 1, frames - 1)
        if count is None:
            return None
        found = self._most_tokens(thinned(count), max(1, tokens * count // frames))
        return found or least(count)

    def refusal(self, found: Footprint) -> str:
        """One line: what was asked for, what there is, what would fit."""
        plan, named = self.plan, self.room.named
        what = (
            f"{plan.frames:,} {plan.what} and {entering(plan):,} visual tokens take about "
            f"{shown(found.peak_bytes)} of memory, and {named} can be used"
        )
        offers = self.offers()
        if offers:
            return f"{what}: {' or '.join(offers)} fits; --fit chooses"
        weights = dict(found.fullest.parts)["weights"]
        why = f"the weights alone take {shown(weights)}"
        if weights <= self.room.limit_bytes:
            why = f"beside {shown(weights)} of weights nothing smaller fits either"
        smaller = "" if self.asked.placement.quantize == "nf4" else "--quantize nf4, "
        return f"{what}: {why}; use {smaller}a smaller --model or a larger device"

    def offers(self) -> list[str]:
        """Settings that fit, each by itself."""
        told = []
        tokens = self._most_tokens(self.over, self._tokens - 1)
        if tokens is not None:
            name = "--budget" if tokens.mean_budget is None else "--mean-budget"
            told.append(f"{name} {tokens.budget or tokens.mean_budget:,}".replace(",", ""))
        if not self.plan.pictures:
            count = _largest(lambda count: self._fits(self._frames(count)), 1, self.plan.frames - 1)
            if count is not None:
                name = "--frames" if self.over.fps is None else "--max-frames"
                told.append(f"{name} {count}")
        return told

    @property
    def _tokens(self) -> int:
        return self.over.mean_budget or entering(self.plan)

    def _most_tokens(self, over: Overrides, most: int) -> Overrides | None:
        """`over` with the most tokens that fit, from a quarter of `most` on."""
        if self.plan.enters_whole and self.over.mean_budget is None:
            return None
        count = _largest(
            lambda count: self._fits(self._with(over, count)), max(1, ceil(most / SHARE)), most
        )
        return None if count is None else self._with(over, count)

    def _with(self, over: Overrides, tokens: int) -> Overrides:
        if self.plan.enters_whole and over.mean_budget is None:
            return over  # fewer frames are fewer tokens
        if over.mean_budget is not None:
            return replace(over, mean_budget=tokens)
        return replace(over, keep=None, budget=tokens)

    def _frames(self, count: int) -> Overrides:
        if self.over.fps is not None:
            return replace(self.over, max_frames=count)
        return replace(self.over, frames=count)

    def _fits(self, over: Overrides) -> bool:
        try:
            return self.room.holds(self.asked.takes(self.asked.plan(over), self.batch))
        except SettingError:  # so few cannot be
            return False


def _largest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest of low .. high for which `holds`, which is true up to it; None if it never is."""
    if high < low or not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
