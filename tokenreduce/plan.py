"""What one run will do, settled before anything is decoded: frames, budget, reductions, sampling.

A preset counts relative to the model; the caller's own numbers override it. Knows the model by its
ModelSpec only, and the video not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from tokenreduce.budget import Layout, NewlineKeep
from tokenreduce.errors import InputError, SettingError
from tokenreduce.models.base import Prune, Sampling
from tokenreduce.models.spec import ModelSpec
from tokenreduce.paradigm import Method
from tokenreduce.preset import Preset, method_label
from tokenreduce.video.types import DecoderName, Seek

MAX_QUESTION_CHARACTERS = 20_000


@dataclass(frozen=True)
class Overrides:
    """What a caller sets over the preset; None leaves it to the preset or the model.

    budget  visual tokens entering the LLM, newlines included     keep  share of the raw count
    frames  how many to sample                                    time_text  the time instruction
    """

    budget: int | None = None
    keep: float | Fraction | None = None
    frames: int | None = None
    seek: Seek | None = None
    decoder: DecoderName | None = None
    newlines: NewlineKeep | None = None
    time_text: bool | None = None


@dataclass(frozen=True)
class Plan:
    """Settled. Either `budget` is set or `keep` is the share of whatever is decoded."""

    preset: str
    label: str
    frames: int
    seek: Seek
    decoder: DecoderName
    budget: int | None
    keep: Fraction
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
        return max(1, int(layout.available * self.keep))


def settle(preset: Preset, spec: ModelSpec, over: Overrides, sampling: Sampling) -> Plan:
    """The preset made absolute for this model, with the caller's overrides.

    Raises SettingError where a number is impossible or two of them contradict each other.
    """
    frames = over.frames if over.frames is not None else native(preset.video.frames, spec)
    if frames < 1:
        raise SettingError(f"{frames} frames: at least 1 is needed")
    if over.budget is not None and over.keep is not None:
        raise SettingError("a budget and a share to keep: give one of the two")
    if over.budget is not None and over.budget < 1:
        raise SettingError(f"a budget of {over.budget}: at least 1 visual token is needed")
    if over.keep is not None and not 0 < over.keep <= 1:  # not a number fails, too
        raise SettingError(f"keep {over.keep}: a share kept, above 0 and at most 1")
    keep = preset.keep if over.keep is None else Fraction(str(over.keep))
    if over.newlines is not None and over.newlines not in get_args(NewlineKeep):
        allowed = ", ".join(get_args(NewlineKeep))
        raise SettingError(f"newlines is {over.newlines!r}; it can be {allowed}")
    before = preset.before_llm
    merge = None if before is None else before.method
    plan = Plan(
        preset=preset.name,
        label=method_label(preset),
        frames=frames,
        seek=over.seek or preset.video.seek,
        decoder=over.decoder or preset.video.decoder,
        budget=over.budget,
        keep=keep,
        newlines=over.newlines or preset.newlines,
        time_text=spec.time_text if over.time_text is None else over.time_text,
        merge=merge,
        merge_site="clip" if before is not None and before.at == "clip" else "frames",
        prunes=tuple(
            Prune(stage.method, stage.planned)
            for stage in preset.in_llm
            if stage.planned is not None
        ),
        sampling=sampling,
    )
    layout = spec.layout(frames)
    if merge is None and plan.budget_for(layout) < layout.available:
        raise SettingError(
            f"preset {preset.name!r} merges nothing, and {frames} frames are {layout.available} "
            f"tokens, not {plan.budget_for(layout)}: choose another preset, or fewer frames"
        )
    return plan


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
