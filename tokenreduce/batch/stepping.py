"""What is asked instead where memory does not suffice: half the frames, half the tokens, once."""

from __future__ import annotations

from dataclasses import replace

from tokenreduce.batch.rows import SteppedDown
from tokenreduce.plan import Overrides, Plan


def smaller(plan: Plan, over: Overrides) -> tuple[Overrides, SteppedDown]:
    """The settings that make half of the plan, at least 1 of each, and what they make."""
    frames, budget = max(1, plan.frames // 2), max(1, plan.budget_for(plan.raw) // 2)
    step = SteppedDown(frames, budget)
    if over.mean_budget is not None:
        made = replace(over, mean_budget=max(1, over.mean_budget // 2))
    elif plan.enters_whole:  # nothing acts before the LLM, so fewer frames are fewer tokens
        made = over
    else:
        made = replace(over, keep=None, budget=budget)
    if over.fps is not None:
        return replace(made, max_frames=frames), step
    return replace(made, frames=frames), step
