"""A run before it is run: settings lead to a plan, and a plan to tokens and memory.

From configurations and counts alone; loads no model, decodes nothing and knows no device's limits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from tokenreduce.footprint import Footprint, of_plan
from tokenreduce.models.chat import TIME_TOKENS
from tokenreduce.models.device_check import writes_attention
from tokenreduce.models.placement import Placement
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Overrides, Plan

_PROMPT_TOKENS = 64  # of a chat template and the words around a time instruction
_TIMES = 2  # listed at most, in multiples of the native frames (`replying.TIMES`)


@dataclass(frozen=True)
class Asked:
    """A run whose size is known: planned(over) gives the plan that settings lead to.

    text_tokens  of the prompt, of a plan     squares  pictures with their tiles, None of a video
    many         several questions            beside   other files that are prepared meanwhile
    """

    spec: ModelSpec
    placement: Placement
    planned: Callable[[Overrides], Plan]
    text_tokens: Callable[[Plan], int]
    squares: int | None = None
    many: bool = False
    beside: int = 0

    def plan(self, over: Overrides) -> Plan:
        """With no more frames than the file has."""
        return bounded(self.planned(over), self.spec)

    def takes(self, plan: Plan, batch: int) -> Footprint:
        return of_plan(
            self.spec,
            plan,
            text_tokens=self.text_tokens(plan),
            quantize=self.placement.quantize,
            dtype_bytes=self.placement.dtype.itemsize,
            tower_batch=batch,
            cuda=self.placement.device.type == "cuda",
            squares=self.squares,
            many=self.many,
            beside=self.beside,
            written=writes_attention(self.placement.device, self.placement.dtype),
        )


def bounded(plan: Plan, spec: ModelSpec) -> Plan:
    """With no more frames than the file has: `raw` counts the tokens of these alone."""
    if plan.pictures:
        return plan
    counts = range(1, plan.frames + 1)
    fewer = bisect_left(counts, plan.raw, key=lambda count: spec.layout(count).available)
    return replace(plan, frames=min(plan.frames, 1 + fewer))


def entering(plan: Plan) -> int:
    """Visual tokens that enter the LLM."""
    return min(plan.budget_for(plan.raw), plan.raw)


def text_estimate(
    spec: ModelSpec, plan: Plan, seconds: float, question: str = "", beside: str = ""
) -> int:
    """Text tokens of a prompt, before any tokenizer is there: three characters of a question make
    one, and each character of a time stamp is one, as Qwen2 cuts numbers. seconds: of the video."""
    count = _PROMPT_TOKENS + ceil(len(question) / 3) + ceil(len(beside) / 3)
    if not plan.time_text or plan.pictures:
        return count
    listed = max(1, min(plan.frames, _TIMES * spec.native_frames))
    stamps = sum(len(f"{i * seconds / listed:.2f}s,") for i in range(listed))
    return count + min(stamps, TIME_TOKENS)
