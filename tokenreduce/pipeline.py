"""From a file and a question to an answer and its cost: the whole road, read top to bottom.

Knows what happens when, and nothing about how: decoding, encoding, reducing and generating live
in their own places. Tells a watcher what goes on and never prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from os import PathLike

import numpy as np
import torch
from torch import Tensor

from tokenreduce import cost, memory, overhead
from tokenreduce.budget import NewlineKeep
from tokenreduce.clock import Clock
from tokenreduce.events import Watcher, ignore
from tokenreduce.models.base import Generation, Sampling, VideoModel
from tokenreduce.models.chat import time_text as time_sentence
from tokenreduce.models.load import load, read_spec
from tokenreduce.models.spec import TextSpec
from tokenreduce.plan import Overrides, Plan, check_context, check_question, settle
from tokenreduce.preset import Preset, load_preset
from tokenreduce.reducer import Reducer
from tokenreduce.result import Answer, FramesUsed, MemoryBytes, TokenCounts, VideoFacts
from tokenreduce.tokens import Tokens
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import DecoderName, Limits, Probe, Request, Seek

_CHUNK = 16
"""Frames handed to the tower at once: a multiple of every family's own batch, so that how features
are grouped, and with it their last bits, depends on the model alone."""


def answer(
    path: str | PathLike[str],
    question: str,
    *,
    preset: str | Preset = "balanced",
    model: str | VideoModel = "llava-video-7b",
    revision: str | None = None,
    budget: int | None = None,
    keep: float | Fraction | None = None,
    frames: int | None = None,
    seek: Seek | None = None,
    decoder: DecoderName | None = None,
    newlines: NewlineKeep | None = None,
    time_text: bool | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    limits: Limits | None = None,
    watch: Watcher = ignore,
) -> Answer:
    """Answers `question` about the video at `path` with exactly the budgeted visual tokens.

    preset         a name (`tokenreduce presets`), the path of a TOML file, or a Preset
    model          an alias (`tokenreduce models`), a hub id, a local folder, or a loaded VideoModel
    budget         visual tokens entering the LLM, newlines included; exact, or all there are
    keep           share of the raw visual tokens kept, instead of a budget
    frames         how many to sample over the whole video
    temperature    0 is greedy
    watch          called with each event as it happens

    Raises a TokenReduceError for whatever the caller can mend: InputError for the video or the
    question, SettingError for an option, ModelError for the model, CapacityError for the device.
    """
    clock = Clock(watch)
    asked = check_question(question)
    chosen = preset if isinstance(preset, Preset) else load_preset(preset)
    spec = read_spec(model, revision=revision) if isinstance(model, str) else model.spec
    over = Overrides(budget, keep, frames, seek, decoder, newlines, time_text)
    plan = settle(chosen, spec, over, Sampling(max_new_tokens, temperature, seed))
    check_context(plan, spec, text=0)
    with Decoder(limits or Limits()) as child:
        with clock.part("probe"):
            probe = child.probe(path)
        loaded = model
        if isinstance(loaded, str):
            with clock.part("load"):
                loaded = load(
                    loaded, revision=revision, device=device, dtype=dtype, quantize=quantize
                )
        memory.reset_device_peak(loaded.device)
        clock.question_begins()
        check_context(plan, spec, _text_before(loaded, asked, plan, probe))
        viewed = view(child, loaded, probe, plan, clock)
    return reply(loaded, viewed, asked, plan, clock)


@dataclass(frozen=True)
class Viewed:
    """A video as the LLM will see it: its visual tokens and where they come from."""

    probe: Probe
    visual: Tokens
    frame_seconds: tuple[float, ...]
    budget: int
    raw: int


def view(decoder: Decoder, model: VideoModel, probe: Probe, plan: Plan, clock: Clock) -> Viewed:
    """Decodes, encodes and reduces one video. Raises InputError if no frame can be decoded."""
    return merge(model, encode(decoder, model, probe, plan, clock), plan, clock)


@dataclass(frozen=True)
class Encoded:
    """Features of a video's frames, in chunks of (f, rows * columns, d), and the frames' times."""

    probe: Probe
    features: tuple[Tensor, ...]
    frame_seconds: tuple[float, ...]


def encode(decoder: Decoder, model: VideoModel, probe: Probe, plan: Plan, clock: Clock) -> Encoded:
    """The planned frames through the vision tower; the child decodes on meanwhile."""
    request = Request(plan.frames, model.spec.vision.image_size, plan.seek, plan.decoder)
    source = decoder.frames(probe.path, request, probe)
    chunks: list[Tensor] = []
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
            chunks.append(model.encode(torch.from_numpy(np.stack([f.pixels for f in batch]))))
            memory.synchronise(model.device)
        clock.advance("encode", len(seconds))
    clock.end("decode")
    clock.end("encode")
    if len(seconds) < plan.frames:
        clock.warn(f"{len(seconds)} frames decoded of {plan.frames} asked for")
    return Encoded(probe, tuple(chunks), tuple(seconds))


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
        )
        for chunk in encoded.features:
            reducer.add(chunk)
        visual = reducer.finish()
        memory.synchronise(model.device)
    return Viewed(encoded.probe, visual, encoded.frame_seconds, budget, layout.available)


def reply(model: VideoModel, viewed: Viewed, question: str, plan: Plan, clock: Clock) -> Answer:
    """Asks the LLM about a viewed video, and accounts for what the whole run took."""
    if unknown := model.unknown_words(question):
        clock.warn(
            f"this model knows only its toy world, and was never taught {', '.join(unknown)}: "
            "its answer means nothing"
        )
    sentence = None
    if plan.time_text:
        sentence = time_sentence(viewed.probe.seconds, viewed.frame_seconds)
    clock.begin("prefill")
    prompt = model.prompt(question, sentence, viewed.visual)

    def on_prefill(seconds: float) -> None:
        clock.spend("prefill", seconds)
        clock.first_token()
        clock.end("prefill")
        clock.begin("answer", plan.sampling.max_new_tokens)

    generation = model.generate(prompt, plan.prunes, plan.sampling, clock.text, on_prefill)
    clock.spend("answer", generation.seconds)
    clock.end("answer")
    return _account(model, viewed, question, plan, clock, generation, prompt.text_count)


def _text_before(model: VideoModel, question: str, plan: Plan, probe: Probe) -> int:
    """Text tokens of the prompt, counted before decoding with evenly spaced stand-in times."""
    if not plan.time_text:
        return model.text_tokens(question, None)
    step = probe.seconds / max(plan.frames - 1, 1)
    times = [i * step for i in range(plan.frames)]
    return model.text_tokens(question, time_sentence(probe.seconds, times))


def _account(
    model: VideoModel,
    viewed: Viewed,
    question: str,
    plan: Plan,
    clock: Clock,
    generation: Generation,
    text: int,
) -> Answer:
    spec, probe, decoded = model.spec, viewed.probe, len(viewed.frame_seconds)
    own = overhead.before_llm(
        plan.merge, spec.text.width, spec.layout(decoded), viewed.budget, plan.newlines
    ) + overhead.inside_llm(plan.prunes, spec.text, generation.per_layer, text)
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
