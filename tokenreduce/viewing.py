"""From a video or pictures to the visual tokens the LLM will read: decode, encode, reduce.

One plan's tokens are reduced while frames still come, so that memory does not grow with the video;
several plans that share the frames hold them until the last has come. Knows no question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tokenreduce import memory
from tokenreduce.behind import Behind
from tokenreduce.budget import Layout
from tokenreduce.clock import Clock
from tokenreduce.errors import SettingError
from tokenreduce.inside import look_inside, patches_of
from tokenreduce.models.base import Prune, VideoModel
from tokenreduce.models.vision import Within
from tokenreduce.plan import Plan, of_video
from tokenreduce.reducer import Reducer
from tokenreduce.seen import Evidence, Need
from tokenreduce.sheet import Sheet
from tokenreduce.stills import Part, available, grid_of, look_at, reduce_parts
from tokenreduce.subject import Footage, Stills, Subject
from tokenreduce.tokens import Tokens
from tokenreduce.turns import Turn, in_turn
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown
from tokenreduce.video.types import Probe
from tokenreduce.watching import CHUNK, Watched, watch

MOST_WHOLE = 1024
"""Frames that may be held as pixels or unreduced features, where that cannot be avoided."""


@dataclass(frozen=True)
class Encoded:
    """What was looked at, before any reduction.

    layouts        how an unreduced model reads it, part by part
    watched        of a video; None of pictures
    squares        frames or pictures, tiles included, for the vision tower
    parts          what left the tower whole; empty where every reduction is inside it
    pixels         uint8 (squares, S, S, 3); none where no reduction is inside the tower
    """

    subject: Subject
    layouts: tuple[Layout, ...]
    watched: Watched | None
    squares: int
    parts: tuple[Part, ...] = ()
    pixels: Tensor | None = None


@dataclass(frozen=True)
class Viewed:
    """What the LLM will see: visual tokens, where they come from, and what will remove some of them
    inside the LLM.

    grid     that the tokens' places count along
    layouts  of an unreduced model, and raw, how many tokens it would read
    within   what acted inside the tower, on the layout `grid`; None where nothing did
    cached   nothing was decoded or encoded for it
    """

    subject: Subject
    visual: Tokens
    grid: Layout
    layouts: tuple[Layout, ...]
    watched: Watched | None
    squares: int
    budget: int
    raw: int
    prunes: tuple[Prune, ...]
    within: Within | None = None
    cached: bool = False

    @property
    def frame_seconds(self) -> tuple[float, ...]:
        return () if self.watched is None else self.watched.seconds


def view(decoder: Decoder, model: VideoModel, probe: Probe, plan: Plan, clock: Clock) -> Viewed:
    """Decodes, encodes and reduces one video. Raises InputError if no frame can be decoded."""
    settled = of_video(plan, model.spec, probe.seconds, probe.fps, shown(probe.path))
    return see(decoder, model, Footage(probe), settled, clock)


def see(
    decoder: Decoder,
    model: VideoModel,
    subject: Subject,
    plan: Plan,
    clock: Clock,
    sheet: Sheet | None = None,
    turn: Turn | None = None,
) -> Viewed:
    """The same of pictures, too. The plan of a video is one of `plan.of_video`.

    turn: held while frames go through the model, so that of several videos which are viewed at once
    one is encoded while others are decoded.
    Raises InputError if no frame can be decoded, SettingError where a reduction inside the tower
    would have to hold too many frames.
    """
    if isinstance(subject, Stills) or plan.within is not None:
        return merge(model, look(decoder, model, subject, (plan,), clock, sheet), plan, clock)
    spec = model.spec
    announced = plan.budget_for(spec.layout(plan.frames + 2).available)
    reducer = Reducer(
        spec.layout(1),
        announced,
        plan.merge,
        model.newline(),
        plan.newlines,
        plan.sampling.seed,
        plan.merge_site,
    )

    def reduce(features: Tensor, evidence: Evidence, stands: Sequence[int]) -> None:
        for part in _filled_in(stands) if plan.fills_in else (torch.arange(len(stands)),):
            reducer.add(features[part.to(features.device)], evidence.rows(part))

    behind = Behind(model, plan.needs, clock, reduce)

    def take(pixels: Tensor, stands: Sequence[int]) -> None:
        with in_turn(turn, clock):
            behind.add(pixels, stands)

    def last() -> None:
        with in_turn(turn, clock):
            behind.finish()

    size, pinned = spec.vision.image_size, model.device.type == "cuda"
    watched = watch(decoder, subject, plan, size, clock, take, sheet, last=last, pinned=pinned)
    layout = spec.layout(reducer.frames)
    budget = plan.budget_for(layout.available)
    with clock.part("reduce"):
        visual = reducer.finish(budget)
        memory.synchronise(model.device)
    return Viewed(
        subject,
        visual,
        layout,
        (layout,),
        watched,
        len(watched.seconds),
        budget,
        layout.available,
        plan.prunes_for(visual.count),
    )


def _filled_in(stands: Sequence[int]) -> tuple[Tensor, ...]:
    """Which frame is shown at each sampled moment, few moments at a time: a frame may stand for
    hours."""
    index = torch.arange(len(stands)).repeat_interleave(torch.tensor(stands))
    return tuple(index.split(CHUNK))


def look(
    decoder: Decoder,
    model: VideoModel,
    subject: Subject,
    plans: Sequence[Plan],
    clock: Clock,
    sheet: Sheet | None = None,
    needs: frozenset[Need] = frozenset(),
) -> Encoded:
    """What all of `plans`, which look at the same frames or pictures, will reduce. needs: what else
    to ask of the tower. Raises InputError if no frame can be decoded, SettingError for more than
    MOST_WHOLE frames."""
    needs = needs.union(*(plan.needs for plan in plans))
    whole = any(plan.within is None for plan in plans)
    inside = any(plan.within is not None for plan in plans)
    if isinstance(subject, Stills):
        return _pictures(model, subject, clock, needs, whole=whole)
    if plans[0].frames > MOST_WHOLE:
        raise SettingError(
            f"{plans[0].frames:,} frames: several settings at once, and a method inside the vision "
            f"encoder, hold them all: at most {MOST_WHOLE:,} are possible"
        )
    kept = _Kept(model, needs, whole=whole, inside=inside)
    size = model.spec.vision.image_size
    watched = watch(decoder, subject, plans[0], size, clock, kept.add, sheet)
    layout = model.spec.layout(len(watched.seconds))
    pixels = torch.cat(kept.pixels) if inside else None
    return Encoded(subject, (layout,), watched, layout.frames, kept.parts(layout), pixels)


def _shown(model: VideoModel, encoded: Encoded, plan: Plan) -> Encoded:
    """With the features of repeats, where the plan fills them in."""
    watched = encoded.watched
    if watched is None or not plan.fills_in or not watched.repeats or not encoded.parts:
        return encoded
    index = torch.cat(_filled_in(watched.stands))
    (part,) = encoded.parts
    layout = model.spec.layout(watched.sampled)
    features = part.features[index.to(part.features.device)]
    shown = Part(layout, features, part.evidence.rows(index))
    return replace(encoded, layouts=(layout,), parts=(shown,))


def encode(
    decoder: Decoder,
    model: VideoModel,
    probe: Probe,
    plan: Plan,
    clock: Clock,
    needs: frozenset[Need] = frozenset(),
) -> Encoded:
    """The frames of one plan, to be reduced in many ways. needs: what the methods want to know."""
    settled = of_video(plan, model.spec, probe.seconds, probe.fps, shown(probe.path))
    return look(decoder, model, Footage(probe), (settled,), clock, None, needs)


@dataclass(frozen=True)
class _Kept:
    """What is kept of a video's frames: features and evidence, pixels, or both."""

    model: VideoModel
    needs: frozenset[Need]
    whole: bool
    inside: bool
    features: list[Tensor] = field(default_factory=list)
    shown: list[Evidence] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)

    def add(self, pixels: Tensor, stands: Sequence[int]) -> None:
        if self.inside:
            self.pixels.append(pixels)
        if self.whole:
            features, evidence = self.model.look(pixels, self.needs)
            self.features.append(features)
            self.shown.append(evidence)
            memory.synchronise(self.model.device)

    def parts(self, layout: Layout) -> tuple[Part, ...]:
        if not self.whole:
            return ()
        return (Part(layout, torch.cat(self.features), Evidence.cat(self.shown)),)


def _pictures(
    model: VideoModel, subject: Stills, clock: Clock, needs: frozenset[Need], *, whole: bool
) -> Encoded:
    pixels = torch.from_numpy(subject.pictures.pixels)
    parts: tuple[Part, ...] = ()
    if whole:
        with clock.part("encode", pixels.shape[0]):
            parts = look_at(model, subject.pictures.sizes, pixels, needs)
            memory.synchronise(model.device)
            clock.advance("encode", pixels.shape[0])
    laid = subject.layouts(model.spec)
    return Encoded(subject, laid, None, pixels.shape[0], parts, pixels)


def merge(model: VideoModel, encoded: Encoded, plan: Plan, clock: Clock) -> Viewed:
    """What was looked at, reduced to the plan's budget before the LLM."""
    encoded = _shown(model, encoded, plan)
    raw = available(encoded.layouts)
    budget = plan.budget_for(raw)
    within = plan.within if budget < raw else None
    if within is not None:
        grid = patches_of(model.spec, encoded.layouts[0])
        with clock.part("encode", encoded.squares):
            visual = look_inside(model, _pixels(encoded), budget, within, grid)
            memory.synchronise(model.device)
    else:
        grid = grid_of(encoded.layouts)
        parts = encoded.parts or _whole(model, encoded, clock)
        with clock.part("reduce"):
            visual = reduce_parts(
                parts,
                budget,
                plan.merge,
                model.newline(),
                plan.newlines,
                plan.sampling.seed,
                plan.merge_site,
            )
            memory.synchronise(model.device)
    return Viewed(
        encoded.subject,
        visual,
        grid,
        encoded.layouts,
        encoded.watched,
        encoded.squares,
        budget,
        raw,
        plan.prunes_for(visual.count),
        within,
    )


def _whole(model: VideoModel, encoded: Encoded, clock: Clock) -> tuple[Part, ...]:
    """Where a reduction inside the tower has nothing to remove: as the unreduced model sees it."""
    pixels = _pixels(encoded)
    with clock.part("encode", encoded.squares):
        if isinstance(encoded.subject, Stills):
            return look_at(model, encoded.subject.pictures.sizes, pixels, frozenset())
        return (Part(encoded.layouts[0], *model.look(pixels, frozenset())),)


def _pixels(encoded: Encoded) -> Tensor:
    if encoded.pixels is None:
        raise ValueError("a reduction inside the tower needs the frames, which were not kept")
    return encoded.pixels
