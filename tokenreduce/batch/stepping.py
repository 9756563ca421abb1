"""What is asked instead where memory does not suffice: half the frames, half the tokens, once."""

from __future__ import annotations

from tokenreduce.batch.rows import SteppedDown
from tokenreduce.lowering import Planned, halved
from tokenreduce.plan import Overrides
from tokenreduce.sizing import entering


def smaller(over: Overrides, planned: Planned) -> tuple[Overrides, SteppedDown] | None:
    """The settings that make half of what `over` does, at least 1 of each, and what they make.
    None where half cannot be asked for."""
    half = halved(over, planned)
    if half is None:
        return None
    return half.over, SteppedDown(half.plan.frames, entering(half.plan))
