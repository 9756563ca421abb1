"""Adds up what one question took: tokens, FLOPs, seconds and bytes into an Answer.

Knows no step of the road, only what each left behind.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from tokenreduce import cost, memory, overhead
from tokenreduce.clock import Clock
from tokenreduce.models.base import Generation, VideoModel
from tokenreduce.models.spec import TextSpec
from tokenreduce.plan import Plan
from tokenreduce.result import Answer, FramesUsed, MemoryBytes, TokenCounts, VideoFacts
from tokenreduce.viewing import Viewed


def account(
    model: VideoModel,
    viewed: Viewed,
    question: str,
    plan: Plan,
    clock: Clock,
    generation: Generation,
    text: int,
) -> Answer:
    """The result of one question. text: tokens of the prompt that are not visual."""
    spec, probe, decoded = model.spec, viewed.probe, len(viewed.frame_seconds)
    own = overhead.before_llm(
        plan.merge,
        (spec.vision, spec.text),
        spec.layout(decoded),
        viewed.budget,
        plan.newlines,
        plan.merge_site,
    ) + overhead.inside_llm(viewed.prunes, spec.text, generation.per_layer, text)
    raw = [viewed.raw] * spec.text.layers
    return Answer(
        answer=generation.text,
        finish_reason=generation.finish_reason,
        question=question,
        video=VideoFacts(
            probe.path, probe.seconds, probe.width, probe.height, probe.fps, probe.codec
        ),
        frames=FramesUsed(plan.frames, decoded, viewed.frame_seconds),
        tokens=TokenCounts(
            viewed.budget, viewed.raw, viewed.visual.count, text, generation.per_layer
        ),
        flops=cost.flops(spec, decoded, viewed.raw, generation.per_layer, text, overhead=own),
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
    )


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
