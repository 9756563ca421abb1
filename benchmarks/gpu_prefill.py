"""Prefill on a GPU: reduced against unreduced, the share of importance scoring, and masking.

Sections of benchmarks/gpu.py, see there. Each gives its rows' figures and what they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks import masked
from benchmarks.gpu_bench import GIB, Bench, told_failure
from benchmarks.gpu_rows import NO_FIT, Figures
from benchmarks.prefill_cases import Timed, clock
from benchmarks.record import Spread, rounds, spreads
from tokenreduce import cost, overhead
from tokenreduce.budget import Layout
from tokenreduce.engine.host import prepare
from tokenreduce.engine.types import Prompt, Prune
from tokenreduce.importance import importance_fused, importance_plain
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.quantize import Quantize
from tokenreduce.schedule import Full, Ramp
from tokenreduce.tokens import Attention, Tokens

Found = tuple[Figures, dict[str, Any]]
ALL_FIXED = "not done: more than half of it is fixed cost"
SHORT = ("512", "1k", "2k", "4k")
"""Rows of lengths at which the kernel may not pay."""


@dataclass(frozen=True)
class Read:
    """A prompt and what prunes it; nothing is unreduced, as transformers reads it."""

    prompt: Prompt
    prunes: tuple[Prune, ...] = ()


def prefill(bench: Bench, kind: Quantize) -> Found:
    """Unreduced by transformers' own forward against merged and pruned by the product's prefill:
    both from embeddings to the last position's logits. Beside it the same by both's `generate` of
    one token, with all that is around a prefill."""
    model, scale = bench.model(kind), bench.scale
    whole, whole_plan = bench.view(model, scale.frames, "none")
    less, less_plan = bench.view(model, scale.frames, "aim")
    cases = {
        "plain": Read(bench.prompt(model, whole)),
        "reduced": Read(bench.prompt(model, less), less.prunes),
        "plain, times": Read(bench.prompt(model, whole, whole_plan)),
        "reduced, times": Read(bench.prompt(model, less, less_plan), less.prunes),
    }
    fixed = dequantised(bench, model) if kind == "nf4" else {}
    works: dict[str, Callable[[], object]] = {
        name: partial(_read, bench, model, case) for name, case in cases.items()
    }
    works["plain, generate"] = partial(bench.stock_generated, model, cases["plain"].prompt)
    pruned = cases["reduced"]
    works["reduced, generate"] = partial(bench.generated, model, pruned.prompt, pruned.prunes)
    first = bench.first(works)
    taken = rounds({name: bench.timed(work) for name, work in works.items()}, scale.repeats)
    flops = {name: flops_of(model, case.prompt, case.prunes) for name, case in cases.items()}
    causal = {name: causal_flops(model, case.prompt, case.prunes) for name, case in cases.items()}
    figures: dict[str, float | str] = {
        "plain_seconds": Spread.of([one["seconds"] for one in taken["plain"]]).median,
        "generate": ratio(taken["plain, generate"], taken["reduced, generate"]),
    }
    ratios: dict[str, float] = {}
    for suffix, name in (("", ""), ("_time_text", ", times")):
        pair = (taken[f"plain{name}"], taken[f"reduced{name}"])
        of_flops = flops[f"plain{name}"] / flops[f"reduced{name}"]
        once = fixed.get("fixed_seconds", 0.0)
        figures[f"speedup{suffix}"] = ratio(*pair)
        figures[f"of_flops{suffix}"] = (
            ratio(*pair, once) / of_flops if outweighs(pair[1], once) else ALL_FIXED
        )
        ratios[f"flops_ratio{suffix}"] = of_flops
        ratios[f"causal_flops_ratio{suffix}"] = causal[f"plain{name}"] / causal[f"reduced{name}"]
    return {**figures, **fixed}, {
        "seconds": {n: spreads(t) for n, t in taken.items()},
        "first call, seconds": first,
        **ratios,
        "flops": flops,
        "causal_flops": causal,
        "visual": {n: case.prompt.visual.shape[0] for n, case in cases.items()},
        "text": {n: case.prompt.text_count for n, case in cases.items()},
    }


def _read(bench: Bench, model: LlavaVideo, case: Read) -> None:
    if not case.prunes:
        bench.stock(model, case.prompt)
    else:
        bench.read(model, case.prompt, case.prunes)


def outweighs(samples: Sequence[Mapping[str, float]], less: float) -> bool:
    """Whether what is left of every sample without `less` seconds is as much at least: the ratio to
    next to nothing is large, and means nothing."""
    return all(one["seconds"] >= 2 * less for one in samples)


def ratio(
    plain: Sequence[Mapping[str, float]], reduced: Sequence[Mapping[str, float]], less: float = 0
) -> float:
    """Median over rounds of the ratio within a round, `less` seconds taken off both."""
    pairs = zip(plain, reduced, strict=True)
    return Spread.of([(a["seconds"] - less) / (b["seconds"] - less) for a, b in pairs]).median


def flops_of(model: LlavaVideo, prompt: Prompt, prunes: Sequence[Prune] = ()) -> float:
    """Of the language model, charged where it acts, and of the pruning itself."""
    text, visual = model.spec.text, prompt.visual.shape[0]
    per_layer = cost.acting(prunes[0].schedule if prunes else Full(), text.layers, visual)
    own = overhead.inside_llm(prunes, text, per_layer, prompt.text_count)
    return float(cost.llm_cost(text, per_layer, prompt.text_count).total + own.total)


def causal_flops(model: LlavaVideo, prompt: Prompt, prunes: Sequence[Prune] = ()) -> float:
    """The language model's products alone, of pairs only those not in the future: what a causal
    attention kernel really computes, where `flops_of` counts all n x n as the paper does."""
    text, visual = model.spec.text, prompt.visual.shape[0]
    per_layer = cost.acting(prunes[0].schedule if prunes else Full(), text.layers, visual)
    whole = cost.llm_cost(text, per_layer, prompt.text_count).matmul
    future = sum(2 * (v + prompt.text_count) ** 2 for v in per_layer)
    return float(whole - future * text.heads * text.head_width)


def dequantised(bench: Bench, model: LlavaVideo) -> dict[str, float]:
    """What any NF4 prefill pays whatever its length: every matrix to bfloat16, once, alone."""
    from bitsandbytes.functional import dequantize_4bit

    layers = model.host.model.language_model.layers
    matrices = [m.weight for m in layers.modules() if type(m).__name__ == "Linear4bit"]

    def work() -> None:
        for weight in matrices:
            dequantize_4bit(weight.data, weight.quant_state)

    work()
    taken = [bench.seconds(work) for _ in range(bench.scale.repeats)]
    numbers = sum(int(weight.quant_state.shape.numel()) for weight in matrices)
    return {
        "fixed_seconds": Spread.of(taken).median,
        "fixed_bytes": numbers * (0.5 + 2) / 1e9,
        "fixed_launches": float(len(matrices)),
    }


def noise(bench: Bench, model: LlavaVideo, visual: int) -> Prompt:
    """`visual` tokens from nowhere between two halves of scale.text more."""
    width, text = model.spec.text.width, bench.scale.text
    embeds = torch.randn(1, visual + text, width, device=bench.device, dtype=model.dtype)
    places = torch.arange(text // 2, text // 2 + visual, device=bench.device)
    return Prompt(embeds, places, Tokens.fresh(embeds[:, places]).bare(), Layout(1, 1, visual))


def scoring(bench: Bench) -> Found:
    """The seconds of AimPrune's choices in one prefill, over that prefill's."""
    model = bench.model("none")
    figures: dict[str, float | str] = {}
    details: dict[str, Any] = {}
    for name, visual in zip(("6k", "12k", "25k"), bench.scale.importance, strict=True):
        prompt = noise(bench, model, visual)
        _scored(bench, model, prompt)  # kernels are compiled and proven here
        taken = [_scored(bench, model, prompt) for _ in range(bench.scale.repeats)]
        shares = [one["scoring"] / one["prefill"] for one in taken]
        figures[f"share_{name}"] = Spread.of(shares).median
        details[name] = spreads(taken)
        del prompt
        in_all = visual + bench.scale.text
        figures[f"kernel_{name}"], details[f"kernel {name}"] = kernel(bench, model, in_all)
    for name, length in zip(SHORT, bench.scale.short, strict=True):
        figures[f"kernel_{name}"], details[f"kernel {name}"] = kernel(bench, model, length)
    return figures, details


def _scored(bench: Bench, model: LlavaVideo, prompt: Prompt) -> dict[str, float]:
    timed = Timed(AimPrune(), bench.device)
    prefill = bench.seconds(partial(bench.read, model, prompt, (Prune(timed, Ramp()),)))
    return {"scoring": timed.seconds, "prefill": prefill}


def kernel(bench: Bench, model: LlavaVideo, length: int) -> tuple[float | str, dict[str, Any]]:
    """How many times faster the kernel scores one layer of `length` tokens than plain torch."""
    if not bench.on_gpu:
        return "not done: the kernel is for CUDA", {}
    if find_spec("triton") is None:
        return "not done: triton is not installed", {}
    text = model.spec.text
    shape = (length, text.head_width)
    q = torch.randn(1, text.heads, *shape, device=bench.device, dtype=model.dtype)
    k = torch.randn(1, text.kv_heads, *shape, device=bench.device, dtype=model.dtype)
    shown = Attention(q, k, text.head_width**-0.5, causal=True)
    works: dict[str, Callable[[], object]] = {
        "plain": partial(importance_plain, shown),
        "kernel": partial(importance_fused, shown),
    }
    try:
        first = bench.first(works)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C compiler, for one: the product scores without it then
        return told_failure(error), {}
    taken = rounds({name: bench.timed(work) for name, work in works.items()}, bench.scale.repeats)
    details = {name: spreads(samples) for name, samples in taken.items()}
    return ratio(taken["plain"], taken["kernel"]), {**details, "first call, seconds": first}


def masking(bench: Bench) -> Found:
    """Merged and pruned as the official code does it, and removing the same tokens."""
    model, scale = bench.model("none"), bench.scale
    figures: dict[str, float | str] = {}
    details: dict[str, Any] = {}
    for name, preset in (("merged", "aim"), ("whole", "none")):
        viewed, _ = bench.view(model, scale.frames, preset)
        prompt = bench.prompt(model, viewed)
        theirs = partial(_masked, bench, model, prompt)
        ours = partial(bench.read, model, prompt, (Prune(AimPrune(), Ramp()),))
        ours()
        held = bench.held()
        peak = bench.fits(partial(bench.peak, theirs))
        if name == "merged":
            figures["merged_peak"] = NO_FIT if peak is None else (peak - held) / GIB
            figures["removed_peak"] = (bench.peak(ours) - held) / GIB
        if peak is None:
            figures[name] = NO_FIT
            continue
        works = {"theirs": bench.timed(theirs), "ours": bench.timed(ours)}
        taken = rounds(works, max(1, scale.repeats // 2))
        figures[name] = ratio(taken["theirs"], taken["ours"])
        details[name] = {way: spreads(samples) for way, samples in taken.items()}
        details[name]["visual"] = prompt.visual.shape[0]
    return figures, details


@torch.no_grad()
def _masked(bench: Bench, model: LlavaVideo, prompt: Prompt) -> None:
    try:
        masked.prefill(model.host, prompt.embeds, prompt.visual, Ramp(), clock)
    finally:
        prepare(model.host)
