"""From a video or pictures to the visual tokens the LLM will read: decode, encode, reduce.

Knows nothing about questions. Decoding goes on in its child while a chunk is being encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tokenreduce import memory
from tokenreduce.budget import Layout
from tokenreduce.clock import Clock
from tokenreduce.inside import look_inside, patches_of
from tokenreduce.models.base import Prune, VideoModel
from tokenreduce.models.vision import Within
from tokenreduce.plan import Plan
from tokenreduce.seen import Evidence, Need
from tokenreduce.stills import Part, available, grid_of, look_at, reduce_parts
from tokenreduce.subject import Footage, Stills, Subject
from tokenreduce.tokens import Tokens
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Probe, Request

_CHUNK = 16
"""Frames handed to the tower at once: a multiple of every family's own batch, so that how features
are grouped, and with it their last bits, depends on the model alone."""


@dataclass(frozen=True)
class Encoded:
    """What was looked at, before any reduction.

    layouts        how an unreduced model reads it, part by part
    frame_seconds  of a video's frames
    squares        frames or pictures, tiles included, for the vision tower
    parts          what left the tower whole; empty where every reduction is inside it
    pixels         uint8 (squares, S, S, 3); none where no reduction is inside the tower
    """

    subject: Subject
    layouts: tuple[Layout, ...]
    frame_seconds: tuple[float, ...]
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
    """

    subject: Subject
    visual: Tokens
    grid: Layout
    layouts: tuple[Layout, ...]
    frame_seconds: tuple[float, ...]
    squares: int
    budget: int
    raw: int
    prunes: tuple[Prune, ...]
    within: Within | None = None


def view(decoder: Decoder, model: VideoModel, probe: Probe, plan: Plan, clock: Clock) -> Viewed:
    """Decodes, encodes and reduces one video. Raises InputError if no frame can be decoded."""
    return merge(model, encode(decoder, model, probe, plan, clock, plan.needs), plan, clock)


def look(
    decoder: Decoder, model: VideoModel, subject: Subject, plans: Sequence[Plan], clock: Clock
) -> Encoded:
    """What all of `plans`, which look at the same frames or pictures, will reduce. Raises
    InputError if no frame can be decoded."""
    needs = frozenset[Need]().union(*(plan.needs for plan in plans))
    whole = any(plan.within is None for plan in plans)
    inside = any(plan.within is not None for plan in plans)
    if isinstance(subject, Footage):
        kept = _Kept(needs, whole, inside)
        return _frames(decoder, model, subject, plans[0], clock, kept)
    return _pictures(model, subject, clock, needs, whole=whole)


def encode(
    decoder: Decoder,
    model: VideoModel,
    probe: Probe,
    plan: Plan,
    clock: Clock,
    needs: frozenset[Need] = frozenset(),
) -> Encoded:
    """The planned frames through the vision tower; the child decodes on meanwhile. needs: what a
    method wants to know of the tower's last layer."""
    inside = plan.within is not None
    kept = _Kept(needs, whole=not inside, inside=inside)
    return _frames(decoder, model, Footage(probe), plan, clock, kept)


@dataclass(frozen=True)
class _Kept:
    """What is kept of a video's frames: features and evidence, pixels, or both."""

    needs: frozenset[Need]
    whole: bool
    inside: bool
    features: list[Tensor] = field(default_factory=list)
    shown: list[Evidence] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)

    def add(self, model: VideoModel, pixels: Tensor) -> None:
        if self.inside:
            self.pixels.append(pixels)
        if self.whole:
            features, evidence = model.look(pixels, self.needs)
            self.features.append(features)
            self.shown.append(evidence)
            memory.synchronise(model.device)

    def parts(self, layout: Layout) -> tuple[Part, ...]:
        if not self.whole:
            return ()
        return (Part(layout, torch.cat(self.features), Evidence.cat(self.shown)),)


def _frames(
    decoder: Decoder, model: VideoModel, subject: Footage, plan: Plan, clock: Clock, kept: _Kept
) -> Encoded:
    request = Request(plan.frames, model.spec.vision.image_size, plan.seek, plan.decoder)
    source = decoder.frames(subject.probe.path, request, subject.probe)
    seconds: list[float] = []
    clock.begin("decode", plan.frames)
    if kept.whole:
        clock.begin("encode", plan.frames)
    while True:
        with clock.within("decode"):
            batch = list(islice(source, _CHUNK))
        if not batch:
            break
        seconds += [frame.seconds for frame in batch]
        clock.advance("decode", len(seconds))
        with clock.within("encode"):
            kept.add(model, torch.from_numpy(np.stack([f.pixels for f in batch])))
        if kept.whole:
            clock.advance("encode", len(seconds))
    clock.end("decode")
    if kept.whole:
        clock.end("encode")
    if len(seconds) < plan.frames:
        clock.warn(f"{len(seconds)} frames decoded of {plan.frames} asked for")
    layout = model.spec.layout(len(seconds))
    pixels = torch.cat(kept.pixels) if kept.inside else None
    parts = kept.parts(layout)
    return Encoded(subject, (layout,), tuple(seconds), layout.frames, parts, pixels)


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
    laid = subject.layouts(model.spec, 0)
    return Encoded(subject, laid, (), pixels.shape[0], parts, pixels)


def merge(model: VideoModel, encoded: Encoded, plan: Plan, clock: Clock) -> Viewed:
    """What was looked at, reduced to the plan's budget before the LLM."""
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
        encoded.frame_seconds,
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
