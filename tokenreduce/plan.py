"""What one run will do, settled before anything is decoded: frames, budget, reductions, sampling.

A preset counts relative to the model; the caller's own numbers override it. Knows the model by its
ModelSpec only, a video not at all, and of pictures how they will be laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import get_args

from tokenreduce.budget import Layout, NewlineKeep
from tokenreduce.errors import SettingError
from tokenreduce.inside import patches_of, shares_of
from tokenreduce.models.base import Prune, Sampling
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.vision import Within
from tokenreduce.moments import parse, span
from tokenreduce.planned import Overrides, Plan
from tokenreduce.preset import Preset, Stage, method_label
from tokenreduce.question import check_question
from tokenreduce.recipes import FEWER_FRAMES, with_method
from tokenreduce.stills import available
from tokenreduce.video.repeats import AUTO

__all__ = [
    "Overrides",
    "Plan",
    "check_question",
    "native",
    "of_video",
    "settle",
]


def settle(
    preset: Preset,
    spec: ModelSpec,
    over: Overrides,
    sampling: Sampling,
    pictures: Sequence[Layout] = (),
) -> Plan:
    """The preset made absolute for this model, with the caller's overrides.

    pictures: how they will be laid out; none for a video. What presets and callers say of frames
    and times means nothing for pictures. Raises SettingError where a number is impossible or two
    of them contradict each other.
    """
    _check(over)
    frames = over.frames or over.max_frames or native(preset.video.frames, spec)
    keep = preset.keep if over.keep is None else Fraction(str(over.keep))
    if over.method is not None:
        preset = with_method(preset, over.method, spec)
    if over.method == FEWER_FRAMES:
        frames, keep = _fewer(frames, keep, over, spec, pictures), Fraction(1)
        over = replace(over, budget=None, keep=None, mean_budget=None)
    elif over.keep is None:
        keep = preset.keep
    if pictures:
        frames = pictures[0].frames
        over = replace(
            over,
            seek="exact",
            decoder="auto",
            time_text=False,
            fps=None,
            max_frames=None,
            start=None,
            end=None,
        )
    laid = pictures or (spec.layout(frames),)
    before = preset.before_llm
    inside = before is not None and before.at == "encoder"
    plan = Plan(
        preset=preset.name,
        label=FEWER_FRAMES if over.method == FEWER_FRAMES else method_label(preset),
        frames=frames,
        raw=available(laid),
        seek=over.seek or preset.video.seek,
        decoder=over.decoder or preset.video.decoder,
        budget=over.budget,
        keep=keep,
        mean_budget=over.mean_budget,
        depth=spec.text.layers,
        newlines=over.newlines or preset.newlines,
        time_text=spec.time_text if over.time_text is None else over.time_text,
        merge=None if before is None or inside else before.method,
        merge_site="clip" if before is not None and before.at == "clip" else "frames",
        within=_within(before, sampling.seed),
        prunes=tuple(
            Prune(stage.method, stage.planned)
            for stage in preset.in_llm
            if stage.planned is not None
        ),
        sampling=sampling,
        pictures=bool(pictures),
        fps=over.fps,
        most=over.max_frames,
        start=None if over.start is None else parse(over.start),
        end=None if over.end is None else parse(over.end),
        skip=None if pictures else _threshold(over.skip_duplicates, preset, inside=inside),
    )
    if plan.fps is None or plan.most is not None:
        _reachable(plan, spec, laid)
    return plan


def of_video(plan: Plan, spec: ModelSpec, seconds: float, fps: float, name: str) -> Plan:
    """With what could not be known before the video: the range in seconds, how many frames it has
    at the plan's rate, and the tokens these make.

    seconds, fps: duration and frames a second, 0 where the file does not say; name: for messages.
    Raises InputError or SettingError for a range that is not in the video, and SettingError where
    the tokens now known make the plan impossible.
    """
    start, stop = span(plan.start, plan.end, seconds, name)
    length = max(0.0, (seconds if stop is None else stop) - start)
    frames = plan.frames
    if plan.fps is not None:
        frames = int(length * plan.fps + 1e-6) + 1
        frames = frames if plan.most is None else min(frames, plan.most)
    there = int(length * fps) + 1 if fps > 0 else frames
    laid = spec.layout(max(1, min(frames, there)))
    settled = replace(
        plan, frames=frames, raw=laid.available, start_seconds=start, stop_seconds=stop
    )
    _reachable(settled, spec, (laid,))
    fills_in = plan.skip is not None and plan.within is None and frames <= _budget(settled, laid)
    return replace(settled, fills_in=fills_in)


def _budget(plan: Plan, laid: Layout) -> int:
    return min(plan.budget_for(laid.available), laid.available)


def _threshold(given: str | float | None, preset: Preset, *, inside: bool) -> float | None:
    """inside: a method acts inside the tower. There nothing can be filled in, so that frames are
    left out only where it is asked for."""
    if inside and given is None:
        return None
    value = preset.video.skip_duplicates if given is None else given
    if value in ("auto", "off"):
        return AUTO if value == "auto" else None
    try:
        levels = float(value)
    except ValueError:
        levels = -1.0
    if not 0 < levels <= 255:
        raise SettingError(
            f"skip_duplicates is {value!r}; it can be auto, off, or levels above 0 to 255"
        )
    return levels


def _within(before: Stage | None, seed: int) -> Within | None:
    """What acts inside the tower; the budget will say how much it keeps."""
    if before is None or before.at != "encoder" or before.planned is None:
        return None
    return Within(before.method, before.planned, 1, seed, before.proportional)


def _check(over: Overrides) -> None:
    for count in (over.frames, over.max_frames):
        if count is not None and count < 1:
            raise SettingError(f"{count} frames: at least 1 is needed")
    if over.fps is not None and not 0 < over.fps < float("inf"):
        raise SettingError(f"{over.fps} frames a second: a number above 0 is needed")
    if over.fps is not None and over.frames is not None:
        raise SettingError("frames and frames a second: give one of them, or fps with max_frames")
    if over.max_frames is not None and over.fps is None:
        raise SettingError("max_frames limits what fps samples: give fps too, or frames instead")
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


def _fewer(
    frames: int, keep: Fraction, over: Overrides, spec: ModelSpec, pictures: Sequence[Layout]
) -> int:
    """As many whole frames as the tokens allowed hold. Raises SettingError if that is none."""
    if over.fps is not None:
        raise SettingError(
            f"{FEWER_FRAMES} takes as many frames as the budget holds, not so many a second: leave "
            "out fps, or choose another --method"
        )
    if pictures:
        raise SettingError(
            f"{FEWER_FRAMES} leaves out frames of a video, and pictures are all wanted: choose "
            "another --method"
        )
    whole = spec.layout(frames).available
    wanted = over.budget or over.mean_budget or int(whole * keep)
    one, each = spec.layout(1).available, spec.layout(1).per_frame
    if wanted < one:
        raise SettingError(
            f"{FEWER_FRAMES} keeps whole frames, and one is {one} tokens, more than the {wanted} "
            f"allowed: give {one} or more"
        )
    return min(frames, 1 + (wanted - one) // each)


def _reachable(plan: Plan, spec: ModelSpec, laid: Sequence[Layout]) -> None:
    """Refuses now what could only be refused once the video has been read."""
    plan.prunes_for(plan.raw)
    if plan.within is not None:
        if len(laid) > 1:
            raise SettingError(
                f"{spec.name} looks at a picture in tiles, of which parts are padding: choose a "
                "method that acts after the encoder"
            )
        if plan.budget_for(plan.raw) < plan.raw:
            shares_of(patches_of(spec, laid[0]), plan.budget_for(plan.raw))
    if not plan.enters_whole:
        return
    wanted = plan.budget_for(plan.raw)
    if plan.mean_budget is not None and not plan.prunes:
        wanted = plan.mean_budget
    if wanted < plan.raw:
        instead = "give --mean-budget" if plan.prunes else "choose another preset or --method"
        raise SettingError(
            f"{plan.label} reduces nothing before the LLM, and {plan.frames} {plan.what} make "
            f"{plan.raw} tokens, not {wanted}: {instead}, or {plan.less}"
        )


def native(multiple: Fraction, spec: ModelSpec) -> int:
    """A multiple of the model's native frame count, at least one frame."""
    return max(1, round(multiple * spec.native_frames))
