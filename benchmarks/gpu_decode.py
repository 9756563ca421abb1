"""Decoding and the vision tower on a GPU: tokens and frames a second, one way against another.

Sections of benchmarks/gpu.py, see there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_bench import Bench, told_failure, unheard, unseen
from benchmarks.gpu_rows import NO_FIT, NO_GRAPHS, Figures
from benchmarks.record import Spread, rounds, spreads
from tokenreduce.engine.generate import generate
from tokenreduce.engine.types import Generation, Prompt, Prune, Sampling, Way
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.vision import pixel_values

Found = tuple[Figures, dict[str, Any]]


def decoding(bench: Bench) -> Found:
    """Tokens a second after the first, of a merged and pruned prompt."""
    model, scale = bench.model("nf4"), bench.scale
    viewed, _ = bench.view(model, scale.frames, "aim")
    prompt = bench.prompt(model, viewed)
    ways: tuple[Way, ...] = ("stock", "slots")
    asked = partial(_decoded, bench, model, prompt, viewed.prunes)
    works = {way: partial(asked, way, scale.steps) for way in ways}
    roads: dict[Way, Generation] = {}
    first = {way: bench.seconds(partial(_noted, roads, way, works[way])) for way in ways}
    # Half of it is free of what comes once: graphs are recorded, first steps set up libraries.
    double = {way: asked(way, 2 * scale.steps).seconds for way in ways}
    taken = rounds(
        {way: partial(_rate, work, scale.steps) for way, work in works.items()}, scale.repeats
    )
    rates = {way: [one["tokens_a_second"] for one in samples] for way, samples in taken.items()}
    figures: dict[str, float | str] = {"stock": Spread.of(rates["stock"]).median}
    road = roads["slots"].decoding
    if bench.on_gpu and road.road != "graphs":
        figures |= dict.fromkeys(("slots", "speedup"), f"{NO_GRAPHS}{road.because}")
    else:
        pairs = zip(rates["slots"], rates["stock"], strict=True)
        figures["slots"] = Spread.of(rates["slots"]).median
        figures["speedup"] = Spread.of([ours / stock for ours, stock in pairs]).median
    return figures, {
        "spreads": {way: spreads(samples) for way, samples in taken.items()},
        "steps": scale.steps,
        "first call, seconds": first,
        "twice the steps, seconds after the first token": double,
        "visual_per_layer": roads["stock"].per_layer,
        "decoding": {way: made.decoding for way, made in roads.items()},
    }


def _noted(roads: dict[Way, Generation], way: Way, work: Callable[[], Generation]) -> None:
    roads[way] = work()


def _decoded(
    bench: Bench,
    model: LlavaVideo,
    prompt: Prompt,
    prunes: tuple[Prune, ...],
    way: Way,
    steps: int,
) -> Generation:
    return generate(
        model.host,
        model.chat.text_of,
        prompt,
        prunes,
        Sampling(steps),
        model.chat.stops,
        unheard,
        unseen,
        way=way,
    )


def _rate(work: Callable[[], Generation], steps: int) -> dict[str, float]:
    made = work()
    if made.tokens != steps:
        raise RuntimeError(f"{made.tokens} tokens instead of {steps}: an answer ended by itself")
    # The first token comes with the prefill.
    return {"tokens_a_second": (made.tokens - 1) / made.seconds}


def tower(bench: Bench) -> Found:
    """Frames a second from pixels on the device to pooled features. Compiled: each of the tower's
    layers by torch.compile with static shapes, of which all but the first reuse what the first
    made; the time of the first call, compiling included, is told apart."""
    model, scale = bench.model("none"), bench.scale
    figures: dict[str, float | str] = {}
    details: dict[str, Any] = {}
    size = model.spec.vision.image_size
    random = torch.Generator().manual_seed(0)
    for batch in scale.batches:
        name = dict(zip(scale.batches, (8, 16, 32), strict=True))[batch]
        frames = torch.randint(
            0, 256, (batch, size, size, 3), generator=random, dtype=torch.uint8
        ).to(bench.device)
        works: dict[str, Callable[[], Tensor]] = {
            "eager": partial(_pooled, model, frames, model.see)
        }
        if bench.left() > 60:
            works["compiled"] = partial(_pooled, model, frames, _compiled(bench, model))
        first = {way: _first(bench, way, work) for way, work in works.items()}
        able = {way: work for way, work in works.items() if not isinstance(first[way], str)}
        taken = rounds({way: bench.timed(work) for way, work in able.items()}, scale.repeats)
        for way in ("eager", "compiled"):
            figures[f"{way}_{name}"] = (
                Spread.of([batch / one["seconds"] for one in taken[way]]).median
                if way in taken
                else str(first.get(way, "not done: too little time was left to compile"))
            )
        details[f"first call, batches of {batch}"] = first
        torch.compiler.reset()
    return figures, details


def _first(bench: Bench, way: str, work: Callable[[], object]) -> float | str:
    """Seconds, or why it cannot be done. Whatever a compiler raises costs its own figures alone."""
    try:
        taken = bench.fits(partial(bench.seconds, work))
    except Exception as error:
        if way != "compiled":
            raise
        return told_failure(error)
    return NO_FIT if taken is None else taken


def _compiled(bench: Bench, model: LlavaVideo) -> Callable[[Tensor], Tensor]:
    """What `model.see` does, through compiled layers. The model stays as it is."""
    tower: Any = model.host.model.vision_tower
    backend = "inductor" if bench.on_gpu else "eager"  # without a GPU there may be no compiler
    layers: list[Any] = [
        torch.compile(layer, dynamic=False, backend=backend) for layer in tower.encoder.layers
    ]

    def see(pixels: Tensor) -> Tensor:
        hidden: Tensor = tower.embeddings(pixels)
        for layer in layers:
            hidden = layer(hidden, None)
        return hidden

    return see


@torch.no_grad()
def _pooled(model: LlavaVideo, frames: Tensor, see: Callable[[Tensor], Tensor]) -> Tensor:
    pixels = pixel_values(frames, model.spec).to(model.dtype)
    return model.pool(model.project(see(pixels)))
