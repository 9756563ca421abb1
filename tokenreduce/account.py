"""Adds up what one question took: tokens, FLOPs, seconds and bytes into an Answer.

Knows no step of the road, only what each left behind.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version

from tokenreduce import cost, memory, overhead
from tokenreduce.budget import in_proportion
from tokenreduce.clock import Clock
from tokenreduce.cost import Through
from tokenreduce.engine.encoder import ToCount
from tokenreduce.inside import shares_of
from tokenreduce.models.base import Generation, Prune, VideoModel
from tokenreduce.models.batched import batch_size
from tokenreduce.models.spec import ModelSpec, TextSpec
from tokenreduce.models.vision import Within
from tokenreduce.plan import Plan
from tokenreduce.result import (
    Answer,
    FrameSource,
    FramesUsed,
    MemoryBytes,
    TextTokens,
    TokenCounts,
)
from tokenreduce.viewing import Viewed
from tokenreduce.work import Cost


def account(
    model: VideoModel,
    viewed: Viewed,
    question: str,
    plan: Plan,
    clock: Clock,
    generation: Generation,
    text: int,
    parts: TextTokens,
    *,
    paid: bool = False,
) -> Answer:
    """The result of one question. text: tokens of the prompt that are not visual, parts: some of
    them; paid: an earlier question has paid for what was viewed."""
    spec, subject = model.spec, viewed.subject
    through, own = _before_llm(spec, viewed, plan)
    paid = paid or viewed.cached
    if paid:
        through, own = (), Cost()
    own += overhead.inside_llm(viewed.prunes, spec.text, generation.per_layer, text)
    raw = [viewed.raw] * spec.text.layers
    return Answer(
        answer=generation.text,
        finish_reason=generation.finish_reason,
        question=question,
        video=subject.facts,
        frames=_frames(model, viewed, plan, paid=paid),
        tokens=TokenCounts(
            viewed.budget, viewed.raw, viewed.visual.count, text, generation.per_layer, parts
        ),
        flops=cost.flops(
            spec,
            0 if paid else viewed.squares,
            viewed.raw,
            generation.per_layer,
            text,
            within=through,
            overhead=own,
            reused=generation.reused,
        ),
        seconds=clock.seconds(),
        memory_bytes=MemoryBytes(
            memory.device_peak_bytes(model.device),
            memory.host_peak_bytes(),
            generation.kv_cache_bytes,
            cost.kv_bytes(spec.text, raw, text, _kv_element_bytes(generation, spec.text, text)),
        ),
        model=spec.name,
        quantize=model.quantize,
        preset=plan.preset,
        method=plan.label,
        seed=plan.sampling.seed,
        generated_tokens=generation.tokens,
        warnings=clock.warnings,
        versions=_versions(),
        images=subject.images,
        decoding=generation.decoding,
    )


def _frames(model: VideoModel, viewed: Viewed, plan: Plan, *, paid: bool) -> FramesUsed:
    source: FrameSource = "cache" if viewed.cached else "session" if paid else "decoded"
    batch = batch_size(model)
    watched = viewed.watched
    if watched is None:
        count = len(viewed.subject.images)
        return FramesUsed(plan.frames, count, (), batch=batch, source=source)
    return FramesUsed(
        plan.frames,
        len(watched.seconds),
        watched.seconds,
        watched.until,
        watched.repeats,
        batch,
        source,
    )


def _before_llm(spec: ModelSpec, viewed: Viewed, plan: Plan) -> tuple[tuple[Through, ...], Cost]:
    """How frames went through the tower where tokens left inside it, and what reducing computed
    beside that, inside the tower or after it."""
    if viewed.within is not None:
        return _inside(spec, viewed, viewed.within)
    most = [layout.available for layout in viewed.layouts]
    own, sizes = Cost(), (spec.vision, spec.text)
    for layout, share in zip(
        viewed.layouts, in_proportion(viewed.visual.count, most, most), strict=True
    ):
        if share:
            own += overhead.before_llm(
                plan.merge, sizes, layout, share, plan.newlines, plan.merge_site
            )
    if own.total and plan.merge is not None:  # the tower shows something of each tile
        tiles = viewed.squares - sum(layout.frames for layout in viewed.layouts)
        own += overhead.shown(plan.merge, spec.vision) * tiles
    return (), own


def _inside(spec: ModelSpec, viewed: Viewed, within: Within) -> tuple[tuple[Through, ...], Cost]:
    """Frames that keep equally many patches, group by group."""
    own, through = Cost(), []
    counts = Counter(share.features for share in shares_of(viewed.grid, viewed.budget).shares)
    for keep, frames in counts.items():
        prune = Prune(within.method, ToCount(within.schedule, keep))
        part = Through.of(spec.vision, frames, prune.schedule)
        through.append(part)
        own += overhead.inside_encoder((prune,), spec.vision, part)
    return tuple(through), own


def _kv_element_bytes(generation: Generation, spec: TextSpec, text: int) -> int:
    """Bytes of one element of the cache, from what it really held: a key and a value a token."""
    held = sum(generation.per_layer) + text * spec.layers
    return generation.kv_cache_bytes // (held * 2 * spec.kv_width)


def _versions() -> dict[str, str]:
    names = ("tokenreduce", "torch", "transformers", "av", "bitsandbytes")
    return {name: found for name in names if (found := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
