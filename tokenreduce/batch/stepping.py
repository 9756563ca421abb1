"""What is asked instead where memory does not suffice: half the frames, half the tokens, once."""

from __future__ import annotations

from tokenreduce.batch.rows import SteppedDown
from tokenreduce.plan import Overrides, Plan
from tokenreduce.sizing import halved


def smaller(plan: Plan, over: Overrides) -> tuple[Overrides, SteppedDown]:
    """The settings that make half of the plan, at least 1 of each, and what they make."""
    made, frames, budget = halved(plan, over)
    return made, SteppedDown(frames, budget)
