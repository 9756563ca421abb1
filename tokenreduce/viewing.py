"""From a file to the visual tokens the LLM will read: decode, encode, merge.

Knows nothing about questions. Decoding goes on in its child while a chunk is being encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tokenreduce import memory
from tokenreduce.clock import Clock
from tokenreduce.models.base import Prune, VideoModel
from tokenreduce.plan import Plan
from tokenreduce.reducer import Reducer
from tokenreduce.seen import Evidence, Need
from tokenreduce.tokens import Tokens
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Probe, Request

_CHUNK = 16
"""Frames handed to the tower at once: a multiple of every family's own batch, so that how features
are grouped, and with it their last bits, depends on the model alone."""


@dataclass(frozen=True)
class Viewed:
    """A video as the LLM will see it: its visual tokens, where they come from, and what will
    remove some of them inside the LLM."""

    probe: Probe
    visual: Tokens
    frame_seconds: tuple[float, ...]
    budget: int
    raw: int
    prunes: tuple[Prune, ...]


def view(decoder: Decoder, model: VideoModel, probe: Probe, plan: Plan, clock: Clock) -> Viewed:
    """Decodes, encodes and reduces one video. Raises InputError if no frame can be decoded."""
    needs: frozenset[Need] = frozenset() if plan.merge is None else plan.merge.needs
    return merge(model, encode(decoder, model, probe, plan, clock, needs), plan, clock)


@dataclass(frozen=True)
class Encoded:
    """Features of a video's frames, in chunks of (f, rows * columns, d), what the encoder showed of
    each chunk, and the frames' times."""

    probe: Probe
    features: tuple[Tensor, ...]
    evidence: tuple[Evidence, ...]
    frame_seconds: tuple[float, ...]


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
    request = Request(plan.frames, model.spec.vision.image_size, plan.seek, plan.decoder)
    source = decoder.frames(probe.path, request, probe)
    chunks: list[Tensor] = []
    shown: list[Evidence] = []
    seconds: list[float] = []
    clock.begin("decode", plan.frames)
    clock.begin("encode", plan.frames)
    while True:
        with clock.within("decode"):
            batch = list(islice(source, _CHUNK))
        if not batch:
            break
        seconds += [frame.seconds for frame in batch]
        clock.advance("decode", len(seconds))
        with clock.within("encode"):
            pixels = torch.from_numpy(np.stack([f.pixels for f in batch]))
            features, evidence = model.look(pixels, needs)
            chunks.append(features)
            shown.append(evidence)
            memory.synchronise(model.device)
        clock.advance("encode", len(seconds))
    clock.end("decode")
    clock.end("encode")
    if len(seconds) < plan.frames:
        clock.warn(f"{len(seconds)} frames decoded of {plan.frames} asked for")
    return Encoded(probe, tuple(chunks), tuple(shown), tuple(seconds))


def merge(model: VideoModel, encoded: Encoded, plan: Plan, clock: Clock) -> Viewed:
    """The features reduced to the plan's budget, before the LLM."""
    layout = model.spec.layout(len(encoded.frame_seconds))
    budget = plan.budget_for(layout)
    with clock.part("reduce"):
        reducer = Reducer(
            model.spec.layout(1),
            budget,
            plan.merge,
            model.newline(),
            plan.newlines,
            plan.sampling.seed,
            plan.merge_site,
        )
        for chunk, evidence in zip(encoded.features, encoded.evidence, strict=True):
            reducer.add(chunk, evidence)
        visual = reducer.finish()
        memory.synchronise(model.device)
    prunes = plan.prunes_for(visual.count)
    return Viewed(encoded.probe, visual, encoded.frame_seconds, budget, layout.available, prunes)
