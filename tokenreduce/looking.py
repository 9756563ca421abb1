"""What several plans share of a video or pictures: all frames encoded, held, not yet reduced.

For comparing settings, and for reductions inside the tower, which need the pixels. Knows no
question and no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenreduce import memory
from tokenreduce.budget import Layout
from tokenreduce.clock import Clock
from tokenreduce.errors import SettingError
from tokenreduce.models.base import VideoModel
from tokenreduce.plan import Plan, of_video
from tokenreduce.seen import Evidence, Need
from tokenreduce.sheet import Sheet
from tokenreduce.stills import Part, look_at
from tokenreduce.subject import Footage, Stills, Subject
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


def filled_in(stands: Sequence[int]) -> tuple[Tensor, ...]:
    """Which frame is shown at each sampled moment, few moments at a time: a frame may stand for
    hours."""
    index = torch.arange(len(stands)).repeat_interleave(torch.tensor(stands))
    return tuple(index.split(CHUNK))


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
