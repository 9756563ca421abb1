"""What one run will do, settled before anything is decoded: frames, budget, reductions, sampling.

A preset counts relative to the model; the caller's own numbers override it. Knows the model by its
ModelSpec only, and the video not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, get_args

from tokenreduce.budget import Layout, NewlineKeep
from tokenreduce.errors import InputError, SettingError
from tokenreduce.models.base import Prune, Sampling
from tokenreduce.models.spec import ModelSpec
from tokenreduce.paradigm import Method
from tokenreduce.preset import Preset, method_label
from tokenreduce.recipes import FEWER_FRAMES, with_method
from tokenreduce.solving import eased, entering
from tokenreduce.video.types import DecoderName, Seek

MAX_QUESTION_CHARACTERS = 20_000


@dataclass(frozen=True)
class Overrides:
    """What a caller sets over the preset; None leaves it to the preset or the model.

    method  another than the preset's, by name (`recipes.recipe_names`)
    budget  visual tokens entering the LLM, newlines included     keep  share of the raw count
    mean_budget  instead of the two: visual tokens a layer of the LLM works on, on average
    frames  how many to sample                                    time_text  the time instruction
    """

    budget: int | None = None
    keep: float | Fraction | None = None
    mean_budget: int | None = None
    method: str | None = None
    frames: int | None = None
    seek: Seek | None = None
    decoder: DecoderName | None = None
    newlines: NewlineKeep | None = None
    time_text: bool | None = None


@dataclass(frozen=True)
class Plan:
    """Settled, but for what depends on how many frames there are: `keep` is a share of them, and
    `mean_budget` is met by the tokens that enter, or by the schedules where nothing acts before."""

    preset: str
    label: str
    frames: int
    seek: Seek
    decoder: DecoderName
    budget: int | None
    keep: Fraction
    mean_budget: int | None
    depth: int
    newlines: NewlineKeep
    time_text: bool
    merge: Method | None
    merge_site: Literal["frames", "clip"]
    prunes: tuple[Prune, ...]
    sampling: Sampling

    def budget_for(self, layout: Layout) -> int:
        """Visual tokens that may enter the LLM when `layout` is what was decoded; at least 1."""
        if self.budget is not None:
            return self.budget
        if self.mean_budget is not None and self.merge is not None:
            schedules = [prune.schedule for prune in self.prunes]
            return entering(self.mean_budget, schedules, self.depth, layout.available)
        return max(1, int(layout.available * self.keep))

    def prunes_for(self, visual: int) -> tuple[Prune, ...]:
        """What acts inside the LLM when `visual` tokens enter it. Raises SettingError where the
        mean budget cannot be reached."""
        if self.mean_budget is None or self.merge is not None or not self.prunes:
            return self.prunes
        return eased(self.prunes, self.mean_budget, self.depth, visual)


def settle(preset: Preset, spec: ModelSpec, over: Overrides, sampling: Sampling) -> Plan:
    """The preset made absolute for this model, with the caller's overrides.

    Raises SettingError where a number is impossible or two of them contradict each other.
    """
    _check(over)
    frames = over.frames if over.frames is not None else native(preset.video.frames, spec)
    keep = preset.keep if over.keep is None else Fraction(str(over.keep))
    if over.method is not None:
        preset = with_method(preset, over.method)
    if over.method == FEWER_FRAMES:
        frames, keep = _fewer(frames, keep, over, spec), Fraction(1)
        over = replace(over, budget=None, keep=None, mean_budget=None)
    elif over.keep is None:
        keep = preset.keep
    before = preset.before_llm
    plan = Plan(
        preset=preset.name,
        label=FEWER_FRAMES if over.method == FEWER_FRAMES else method_label(preset),
        frames=frames,
        seek=over.seek or preset.video.seek,
        decoder=over.decoder or preset.video.decoder,
        budget=over.budget,
        keep=keep,
        mean_budget=over.mean_budget,
        depth=spec.text.layers,
        newlines=over.newlines or preset.newlines,
        time_text=spec.time_text if over.time_text is None else over.time_text,
        merge=None if before is None else before.method,
        merge_site="clip" if before is not None and before.at == "clip" else "frames",
        prunes=tuple(
            Prune(stage.method, stage.planned)
            for stage in preset.in_llm
            if stage.planned is not None
        ),
        sampling=sampling,
    )
    _reachable(plan, spec.layout(frames))
    return plan


def _check(over: Overrides) -> None:
    if over.frames is not None and over.frames < 1:
        raise SettingError(f"{over.frames} frames: at least 1 is needed")
    if sum(rival is not None for rival in (over.budget, over.keep, over.mean_budget)) > 1:
        raise SettingError("a budget, a mean budget and a share to keep: give one of them")
    for budget in (over.budget, over.mean_budget):
        if budget is not None and budget < 1:
            raise SettingError(f"a budget of {budget}: at least 1 visual token is needed")
    if over.keep is not None and not 0 < over.keep <= 1:  # not a number fails, too
        raise SettingError(f"keep {over.keep}: a share kept, above 0 and at most 1")
    if over.newlines is not None and over.newlines not in get_args(NewlineKeep):
        allowed = ", ".join(get_args(NewlineKeep))
        raise SettingError(f"newlines is {over.newlines!r}; it can be {allowed}")


def _fewer(frames: int, keep: Fraction, over: Overrides, spec: ModelSpec) -> int:
    """As many whole frames as the tokens allowed hold, at least one."""
    wanted = over.budget or over.mean_budget or int(spec.layout(frames).available * keep)
    return max(1, min(frames, wanted // spec.layout(1).available))


def _reachable(plan: Plan, layout: Layout) -> None:
    """Refuses now what could only be refused once the video has been read."""
    plan.prunes_for(layout.available)
    if plan.merge is not None:
        return
    wanted = plan.budget_for(layout)
    if plan.mean_budget is not None and not plan.prunes:
        wanted = plan.mean_budget
    if wanted < layout.available:
        instead = "give --mean-budget" if plan.prunes else "choose another preset or --method"
        raise SettingError(
            f"{plan.label} reduces nothing before the LLM, and {plan.frames} frames are "
            f"{layout.available} tokens, not {wanted}: {instead}, or fewer --frames"
        )


def native(multiple: Fraction, spec: ModelSpec) -> int:
    """A multiple of the model's native frame count, at least one frame."""
    return max(1, round(multiple * spec.native_frames))


def check_question(question: str) -> str:
    """The question without white space around it. Raises InputError if it is empty or too long."""
    stripped = question.strip()
    if not stripped:
        raise InputError("the question is empty: give it after the file, or on standard input")
    if len(stripped) > MAX_QUESTION_CHARACTERS:
        raise InputError(
            f"the question has {len(stripped):,} characters: "
            f"at most {MAX_QUESTION_CHARACTERS:,} are allowed"
        )
    return stripped


def check_context(plan: Plan, spec: ModelSpec, text: int, frames: int | None = None) -> None:
    """Raises SettingError where visual, text and answer tokens exceed the context window.

    text    tokens of the prompt that are not visual, as far as they are known (0 before loading)
    frames  how many there will be, where that is known better than from the plan
    """
    layout = spec.layout(plan.frames if frames is None else frames)
    visual = min(plan.budget_for(layout), layout.available)
    fits = spec.text.context - text - plan.sampling.max_new_tokens
    if visual <= fits:
        return
    if fits < 1:
        advice = "the text alone is too long: ask less, sample fewer frames, or --no-time-text"
    elif text == 0:  # not counted yet: no number would be the right one
        advice = "set a smaller --budget or fewer --frames, and leave room for the question"
    else:
        advice = f"the largest budget that fits is {fits} (--budget {fits})"
    raise SettingError(
        f"{visual} visual + {text} text + up to {plan.sampling.max_new_tokens} answer tokens "
        f"exceed the {spec.text.context} that {spec.name} can hold: {advice}"
    )
