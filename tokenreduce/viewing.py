"""From a video or pictures to the visual tokens the LLM will read: decode, encode, reduce.

One plan's tokens are reduced while frames still come, so that memory does not grow with the video.
Knows no question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenreduce import memory
from tokenreduce.behind import Behind
from tokenreduce.budget import Layout
from tokenreduce.clock import Clock
from tokenreduce.inside import look_inside, patches_of
from tokenreduce.looking import Encoded, filled_in, look
from tokenreduce.models.base import Prune, VideoModel
from tokenreduce.models.vision import Within
from tokenreduce.plan import Plan, of_video
from tokenreduce.reducer import Reducer
from tokenreduce.seen import Evidence
from tokenreduce.sheet import Sheet
from tokenreduce.stills import Part, available, grid_of, look_at, reduce_parts
from tokenreduce.subject import Footage, Stills, Subject
from tokenreduce.tokens import Tokens
from tokenreduce.turns import Turn, in_turn
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown
from tokenreduce.video.types import Probe
from tokenreduce.watching import Watched, watch


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
    alone: Turn | None = None,
) -> Viewed:
    """The same of pictures, too. The plan of a video is one of `plan.of_video`.

    turn: held while frames go through the model, so that of several videos which are viewed at once
    one is encoded while others are decoded. alone: the same lock where memory is limited, held for
    all else that takes much of the device, too: pictures, and every reduction.
    Raises InputError if no frame can be decoded, SettingError where a reduction inside the tower
    would have to hold too many frames.
    """
    if isinstance(subject, Stills) or plan.within is not None:
        # Frames for a reduction inside the tower are decoded now and encoded in `merge`.
        with in_turn(alone if isinstance(subject, Stills) else None, clock):
            encoded = look(decoder, model, subject, (plan,), clock, sheet)
        with in_turn(alone, clock):
            return merge(model, encoded, plan, clock)
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
        for part in filled_in(stands) if plan.fills_in else (torch.arange(len(stands)),):
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
    with in_turn(alone, clock), clock.part("reduce"):
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


def _shown(model: VideoModel, encoded: Encoded, plan: Plan) -> Encoded:
    """With the features of repeats, where the plan fills them in."""
    watched = encoded.watched
    if watched is None or not plan.fills_in or not watched.repeats or not encoded.parts:
        return encoded
    index = torch.cat(filled_in(watched.stands))
    (part,) = encoded.parts
    layout = model.spec.layout(watched.sampled)
    features = part.features[index.to(part.features.device)]
    shown = Part(layout, features, part.evidence.rows(index))
    return replace(encoded, layouts=(layout,), parts=(shown,))


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
