"""What of a run can be asked for in less: visual tokens and frames, as settings and as flags.

Knows what a plan says and no device, no memory and no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import le

from tokenreduce.errors import SettingError
from tokenreduce.footprint import layers_of
from tokenreduce.plan import Overrides, Plan
from tokenreduce.recipes import FEWER_FRAMES
from tokenreduce.sizing import entering

Planned = Callable[[Overrides], Plan]
"""The plan that settings lead to, for one file. Raises SettingError for what cannot be."""


@dataclass(frozen=True)
class Knobs:
    """Of settings and the plan they led to.

    tokens_flag, frames_flag  by which less is asked for; None where that cannot be: the method
        takes whatever there is, pictures are all wanted, or frames follow from the tokens
    """

    over: Overrides
    plan: Plan

    @property
    def in_whole_frames(self) -> bool:
        """Fewer tokens are fewer frames, nothing else."""
        return self.plan.label == FEWER_FRAMES

    @property
    def tokens_flag(self) -> str | None:
        if self.over.mean_budget is not None:
            return "--mean-budget"
        whole = self.plan.enters_whole and not self.in_whole_frames
        return None if whole else "--budget"

    @property
    def frames_flag(self) -> str | None:
        if self.plan.pictures or self.in_whole_frames:
            return None
        return "--frames" if self.over.fps is None else "--max-frames"

    @property
    def tokens(self) -> int:
        """As many as are asked for now, or as there are."""
        there = entering(self.plan)
        return min(self.over.mean_budget or there, there)

    def as_tokens(self, count: int) -> str:
        """The flag, as it can be given beside all else that was."""
        instead = "" if self.over.keep is None else " (instead of --keep)"
        return f"{self.tokens_flag} {count}{instead}"

    def as_frames(self, count: int) -> str:
        """As `as_tokens`."""
        return f"{self.frames_flag} {count}"

    def with_tokens(self, over: Overrides, count: int) -> Overrides:
        """`over`, with `count` of what the tokens' flag sets; as it is where there is no flag."""
        if self.tokens_flag is None:
            return over
        if self.tokens_flag == "--mean-budget":
            return replace(over, mean_budget=count)
        return replace(over, keep=None, budget=count)

    def with_frames(self, over: Overrides, count: int) -> Overrides:
        """`over`, with `count` frames; as it is where there is no flag."""
        if self.frames_flag is None:
            return over
        if self.frames_flag == "--max-frames":
            return replace(over, max_frames=count)
        return replace(over, frames=count)

    def halves(self, planned: Planned) -> tuple[str, ...]:
        """Half of the tokens, half of the frames, each by itself, as flags that can be given."""
        tokens, frames = max(1, self.tokens // 2), max(1, self.plan.frames // 2)
        each = (
            (self.as_tokens(tokens), self.with_tokens(self.over, tokens)),
            (self.as_frames(frames), self.with_frames(self.over, frames)),
        )
        return tuple(flag for flag, over in each if _lighter(over, self.plan, planned) is not None)


@dataclass(frozen=True)
class Half:
    """over: settings; plan: what they lead to."""

    over: Overrides
    plan: Plan


def halved(over: Overrides, planned: Planned) -> Half | None:
    """Half of the tokens and of the frames that `over` leads to, at least 1 of each. None where
    settings that lead to less cannot be."""
    plan = planned(over)
    knobs = Knobs(over, plan)
    made = knobs.with_frames(over, max(1, plan.frames // 2))
    made = knobs.with_tokens(made, max(1, knobs.tokens // 2))
    then = _lighter(made, plan, planned)
    return None if then is None else Half(made, then)


def _lighter(over: Overrides, plan: Plan, planned: Planned) -> Plan | None:
    """What `over` leads to, where that can be and is less than `plan` in something."""
    try:
        then = planned(over)
        before, after = _weight(plan), _weight(then)
    except SettingError:
        return None
    return then if after != before and all(map(le, after, before)) else None


def _weight(plan: Plan) -> tuple[int, int]:
    """Frames, and visual tokens over all layers. Raises SettingError for what cannot be."""
    return plan.frames, sum(layers_of(plan))
