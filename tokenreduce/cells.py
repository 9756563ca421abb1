"""Which settings a comparison has, settled one by one; those that cannot be are set aside.

Answers nothing and decodes nothing. Knows no method, and the model by its ModelSpec only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tokenreduce.budget import Layout
from tokenreduce.clock import Clock
from tokenreduce.errors import SettingError, TokenReduceError
from tokenreduce.looking import MOST_WHOLE
from tokenreduce.models.base import Sampling
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Overrides, Plan, settle
from tokenreduce.preset import Preset, load_preset
from tokenreduce.recipes import stages_of

Wanted = tuple[str, Preset, Overrides]
"""A setting's label, and what it is before it is settled."""


@dataclass(frozen=True)
class Cell:
    """One setting. plan: None where it could not be settled. refused: why it cannot be answered.
    reference: the unreduced model that others are held against."""

    label: str
    plan: Plan | None
    refused: TokenReduceError | None = None
    reference: bool = False


def wanted(
    spec: ModelSpec,
    presets: Sequence[str | Preset],
    methods: Sequence[str],
    mean_budgets: Sequence[int],
    budgets: Sequence[int],
    base: str | Preset,
    frames: int | None,
) -> list[Wanted]:
    """Each of `presets`, and every method at every budget on the frames of `base`; none twice.

    Raises SettingError for what is no preset, method or budget at all.
    """
    for method in methods:
        stages_of(method, spec)
    for count in (*mean_budgets, *budgets):
        if count < 1:
            raise SettingError(f"a budget of {count}: at least 1 visual token is needed")
    # Every sampled frame is looked at, so that all settings see the same.
    plain = Overrides(frames=frames, skip_duplicates="off")
    on = _loaded(base)
    sizes = [
        *((f" mean {n:,}", replace(plain, mean_budget=n)) for n in mean_budgets),
        *((f" {n:,} in", replace(plain, budget=n)) for n in budgets),
    ] or [("", plain)]
    found: list[Wanted] = [(_name(preset), _loaded(preset), plain) for preset in presets]
    found += [(m + size, on, replace(o, method=m)) for size, o in sizes for m in methods]
    if not found:
        raise SettingError("nothing to compare: give --presets, --methods, or both")
    return [one for place, one in enumerate(found) if one not in found[:place]]


def settled(
    one: Wanted, spec: ModelSpec, sampling: Sampling, pictures: Sequence[Layout] = ()
) -> Cell:
    label, preset, over = one
    try:
        return Cell(label, settle(preset, spec, over, sampling, pictures))
    except SettingError as error:
        return Cell(label, None, refusal(error))


def with_references(cells: Sequence[Cell]) -> list[Cell]:
    """Those of the same frames together, each such group after the unreduced model."""
    groups = list(_groups(cells))
    found: list[Cell] = []
    for group in dict.fromkeys(groups):
        alike = [cell for cell, own in zip(cells, groups, strict=True) if own == group]
        plan = next((cell.plan for cell in alike if cell.plan is not None), None)
        if plan is not None:
            whole = _unreduced(plan)
            found.append(Cell(f"full, {whole.frames} {whole.what}", whole, reference=True))
        found += alike
    return found


def _groups(cells: Sequence[Cell]) -> Iterator[tuple[object, ...]]:
    """What each looks at; one that could not be settled goes with those before it."""
    known = [cell.plan.looks_at for cell in cells if cell.plan is not None]
    last = known[0] if known else ()
    for cell in cells:
        if cell.plan is not None:
            last = cell.plan.looks_at
        yield last


def _unreduced(plan: Plan) -> Plan:
    return replace(
        plan,
        label="none",
        preset="none",
        budget=None,
        mean_budget=None,
        keep=Fraction(1),
        merge=None,
        within=None,
        prunes=(),
    )


def sieve(cells: Sequence[Cell], check: Callable[[Plan], Plan], clock: Clock) -> list[Cell]:
    """The same, with the plans that `check` returns. What it raises a SettingError for is refused;
    an unreduced model that it refuses is left out, and a warning says so.

    Raises the error itself where nothing is left to compare.
    """
    found: list[Cell] = []
    for cell in cells:
        if cell.plan is None or cell.refused is not None:
            found.append(cell)
            continue
        try:
            found.append(replace(cell, plan=check(cell.plan)))
        except SettingError as error:
            if cell.reference:
                left_out(cell.plan, error, clock)
            else:
                found.append(replace(cell, refused=refusal(error)))
    something_left([(c.label, c.refused) for c in found if not c.reference])
    return found


def left_out(plan: Plan, error: TokenReduceError, clock: Clock) -> None:
    """Warns that there is no unreduced model to compare with."""
    clock.warn(f"nothing to compare with at {plan.frames} {plan.what}: {refusal(error)}")


def something_left(found: Sequence[tuple[str, TokenReduceError | None]]) -> None:
    """Raises the first refusal where all settings, given by label, are refused."""
    refused = [(label, error) for label, error in found if error is not None]
    if len(refused) < len(found):
        return
    label, error = refused[0]
    if len(refused) > 1:
        error = type(error)(f"none of {len(refused)} settings can be, the first, {label}: {error}")
    raise error


def refusal(error: TokenReduceError) -> TokenReduceError:
    """The same in terms of the options that a comparison has, without what led to it: a traceback
    would hold on to tensors."""
    plural = re.sub(r"--(budget|mean-budget|method)\b", r"--\1s", str(error))
    return type(error)(plural)


def fitting(plan: Plan, spec: ModelSpec, text: int) -> Plan:
    """The plan itself. Raises SettingError for more frames than can be held, and where visual, text
    and answer tokens exceed the context window.

    text: tokens of the prompt that are not visual, 0 where they are not known yet.
    """
    if plan.frames > MOST_WHOLE:
        raise SettingError(
            f"{plan.frames:,} frames: a comparison holds them all, and at most {MOST_WHOLE:,} are "
            f"possible: give {plan.less}"
        )
    visual, most = min(plan.budget_for(plan.raw), plan.raw), plan.sampling.max_new_tokens
    room = spec.text.context - text - most
    if visual <= room:
        return plan
    advice = plan.less
    if room < 1:
        advice = f"a shorter question, {plan.less}, or a smaller --max-new-tokens"
    elif plan.budget is not None:
        advice = f"--budgets of at most {room}, or {plan.less}"
    words = f" + {text} text" if text else ""
    raise SettingError(
        f"{visual} visual{words} + up to {most} answer tokens exceed the {spec.text.context} that "
        f"{spec.name} can hold: give {advice}"
    )


def _loaded(preset: str | Preset) -> Preset:
    return preset if isinstance(preset, Preset) else load_preset(preset)


def _name(preset: str | Preset) -> str:
    return preset.name if isinstance(preset, Preset) else preset
