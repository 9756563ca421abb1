"""Whether a prompt fits the model's context window, and what to do where it does not.

From counts alone; knows no tokenizer and no file.
"""

from __future__ import annotations

from bisect import bisect_right

from tokenreduce.errors import SettingError
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Plan
from tokenreduce.recipes import FEWER_FRAMES


def check_context(plan: Plan, spec: ModelSpec, text: int, raw: int | None = None) -> None:
    """Raises SettingError where visual, text and answer tokens exceed the context window.

    text  tokens of the prompt that are not visual, as far as they are known (0 before loading)
    raw   visual tokens there will be, where that is known better than from the plan
    """
    raw = plan.raw if raw is None else raw
    visual = min(plan.budget_for(raw), raw)
    fits = spec.text.context - text - plan.sampling.max_new_tokens
    if visual <= fits:
        return
    advice = _advice(plan, spec, text, fits)
    raise SettingError(
        f"{visual} visual + {text} text + up to {plan.sampling.max_new_tokens} answer tokens "
        f"exceed the {spec.text.context} that {spec.name} can hold: {advice}"
    )


def _advice(plan: Plan, spec: ModelSpec, text: int, fits: int) -> str:
    """fits: visual tokens that there is room for."""
    if fits < 1:
        return f"the text alone is too long: ask less, look at {plan.less}, or --no-time-text"
    whole = plan.enters_whole and plan.label != FEWER_FRAMES  # of which no budget can be asked
    if text == 0:  # not counted yet: no number would be the right one
        budget = "" if whole else "set a smaller --budget or "
        return f"{budget}{'look at ' if whole else ''}{plan.less}, and leave room for the question"
    if not whole:
        return f"the largest budget that fits is {fits} (--budget {fits})"
    instead = "choose another preset or --method"
    counts = range(1, plan.frames + 1)
    most = bisect_right(counts, fits, key=lambda count: spec.layout(count).available)
    if plan.pictures or not most:
        return f"look at {plan.less}, or {instead}"
    return f"{'--frames' if plan.fps is None else '--max-frames'} {most} fits, or {instead}"
