"""Makes a run fit its device: frames a batch in the tower, the budget, the number of frames.

Works on plans and predictions alone. What it changes it says, and what does not fit it refuses
with what would. Loads no model, decodes nothing and knows no question.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from tokenreduce.bytesizes import shown
from tokenreduce.errors import CapacityError, SettingError
from tokenreduce.footprint import Footprint
from tokenreduce.lowering import Knobs
from tokenreduce.models.vision import batch_of
from tokenreduce.plan import Overrides, Plan
from tokenreduce.room import Room
from tokenreduce.sizing import Asked, entering

SHARE = 4
"""The budget is lowered to a quarter of what was planned for as many frames, and no further: then
frames are left out."""


Fits = Callable[[int], bool | None]
"""Whether as many fit: None up to some number, for so few cannot be asked for; then true up to
another."""


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
    made = search.lowered() if lower else None
    if made is None:
        raise CapacityError(search.refusal(found, lower=lower))
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
    if before.mean_budget is not None and after.mean_budget != before.mean_budget:
        told.append(f"a mean budget of {before.mean_budget:,} -> {after.mean_budget or 0:,}")
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

    @property
    def _knobs(self) -> Knobs:
        return Knobs(self.over, self.plan)

    def lowered(self) -> Overrides | None:
        found = self._most_tokens(self.over, self._knobs.tokens)
        if found is None and self._knobs.frames_flag is not None:
            count = _largest(self._holds_frames, self.plan.frames - 1)
            found = None if count is None else self._of_frames(count)
        return found

    def refusal(self, found: Footprint, *, lower: bool) -> str:
        """One line: what was asked for, what there is, what would fit. lower: it was allowed to be
        less, and none of it fits."""
        plan, room = self.plan, self.room
        what = (
            f"{plan.frames:,} {plan.what} and {entering(plan):,} visual tokens take about "
            f"{shown(room.needed_bytes(found))} of memory with 3 % to spare, and {room.named} can "
            "be used"
        )
        offers = [] if lower else self.offers()
        if offers:
            return f"{what}: {' or '.join(offers)} fits; --fit chooses"
        weights = dict(found.fullest.parts)["weights"]
        why = f"the weights alone take {shown(weights)}"
        if weights <= room.limit_bytes:
            why = f"beside {shown(weights)} of weights nothing smaller fits either"
        smaller = "--quantize nf4, " if self._fits_in_nf4(found) else ""
        return f"{what}: {why}; use {smaller}a smaller --model or a larger device"

    def _fits_in_nf4(self, found: Footprint) -> bool:
        """Whether the weights would leave room, which they do not as they are."""
        asked = self.asked
        if asked.placement.quantize == "nf4":
            return False
        small = replace(asked, placement=replace(asked.placement, quantize="nf4"))
        weights = dict(small.takes(self.plan, self.batch).fullest.parts)["weights"]
        return weights < min(self.room.limit_bytes, dict(found.fullest.parts)["weights"])

    def offers(self) -> list[str]:
        """Settings that fit, each by itself."""
        told, knobs = [], self._knobs
        tokens = self._most_tokens(self.over, knobs.tokens - 1)
        if tokens is not None:
            told.append(knobs.as_tokens(tokens.mean_budget or tokens.budget or 1))
        if knobs.frames_flag is not None:

            def fits(count: int) -> bool | None:
                return self._fits(knobs.with_frames(self.over, count))

            if (count := _largest(fits, self.plan.frames - 1)) is not None:
                told.append(knobs.as_frames(count))
        return told

    def _of_frames(self, count: int) -> Overrides | None:
        """With as many frames, and the most tokens that fit then: at most as many a frame as were
        asked for, at least a quarter of that."""
        thinned = self._knobs.with_frames(self.over, count)
        found = self._most_tokens(thinned, self._share_of(count))
        return thinned if found is None and self._holds_as_it_is(thinned) else found

    def _holds_frames(self, count: int) -> bool:
        """Whether `_of_frames` finds any."""
        thinned = self._knobs.with_frames(self.over, count)
        fits, most, least = self._by_tokens(thinned, self._share_of(count))
        first = _first(fits, most, least)
        return bool(first is not None and fits(first)) or self._holds_as_it_is(thinned)

    def _share_of(self, frames: int) -> int:
        """Of the tokens that were asked for."""
        return max(1, self._knobs.tokens * frames // self.plan.frames)

    def _holds_as_it_is(self, thinned: Overrides) -> bool:
        """Fewer frames are fewer tokens by themselves, unless a number of these is asked for."""
        return self._knobs.tokens_flag != "--budget" and bool(self._fits(thinned))

    def _most_tokens(self, over: Overrides, most: int) -> Overrides | None:
        """`over` with the most tokens that fit, `_by_tokens`."""
        if self._knobs.tokens_flag is None:
            return None
        fits, most, least = self._by_tokens(over, most)
        count = _largest(fits, most, least)
        return None if count is None else self._knobs.with_tokens(over, count)

    def _by_tokens(self, over: Overrides, most: int) -> tuple[Fits, int, int]:
        """Whether a count of tokens fits, and the range in which one is looked for: from a quarter
        of `most` on, but that whole frames may go down to one."""
        least = 1 if self._knobs.in_whole_frames else ceil(most / SHARE)
        return lambda count: self._fits(self._knobs.with_tokens(over, count)), most, max(1, least)

    def _fits(self, over: Overrides) -> bool | None:
        """None for what cannot be asked for."""
        try:
            return self.room.holds(self.asked.takes(self.asked.plan(over), self.batch))
        except SettingError:
            return None


def _first(holds: Fits, high: int, low: int) -> int | None:
    """The smallest of low .. high that can be asked for."""
    if high < low or holds(high) is None:
        return None
    return bisect_left(range(low, high), True, key=lambda count: holds(count) is not None) + low


def _largest(holds: Fits, high: int, low: int = 1) -> int | None:
    """The largest of low .. high for which `holds`; None if there is none."""
    first = _first(holds, high, low)
    if first is None:
        return None
    if not holds(first):
        return None
    while first < high:
        middle = (first + high + 1) // 2
        first, high = (middle, high) if holds(middle) else (first, middle - 1)
    return first
