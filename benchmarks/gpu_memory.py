"""Memory on a GPU: what fits on small cards, what reduction saves, and what was predicted.

Sections of benchmarks/gpu.py, see there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.gpu_bench import GIB, Bench, NotDone
from benchmarks.gpu_rows import NO_FIT, Figures
from tokenreduce.footprint import Stage, of_plan
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.vision import batch_of
from tokenreduce.plan import Overrides

Found = tuple[Figures, dict[str, Any]]

CARDS = {"budget": 8.0, "budget_16": 16.0, "budget_24": 24.0}
"""GiB, less what the driver takes, of each row of the section."""

UNSEEN = "not done: no more memory was seen in use than before"
LEAST = 16
"""Visual tokens below which no budget is tried."""


def small(bench: Bench) -> Found:
    """The largest budget with which everything from the frames to the first token fits."""
    model = bench.model("nf4")
    figures: dict[str, float | str] = {}
    details: dict[str, Any] = {}
    for key, gib in CARDS.items():
        tried: dict[int, bool] = {}
        try:
            figures[key] = _largest(bench, model, gib, tried)
        except NotDone as reason:
            figures[key] = str(reason)
        details[key] = {"gib": gib, "tried": tried, "most": _most(bench, model)}
    return figures, details


def _most(bench: Bench, model: LlavaVideo) -> int:
    """All there is, or what the context holds beside the text."""
    spec, scale = model.spec, bench.scale
    return min(spec.layout(scale.small_frames).available, spec.text.context - 2 * scale.text - 512)


def _largest(bench: Bench, model: LlavaVideo, gib: float, tried: dict[int, bool]) -> float | str:
    """By bisection, to scale.small_step tokens."""

    def fits(budget: int) -> bool:
        tried[budget] = _fits(bench, model, gib, budget)
        return tried[budget]

    low, high = LEAST, _most(bench, model)
    if fits(high):
        return float(high)
    if not fits(low):
        return NO_FIT
    while high - low > bench.scale.small_step:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return float(low)


def _fits(bench: Bench, model: LlavaVideo, gib: float, budget: int) -> bool:
    def work() -> bool:
        with bench.card(gib):
            _road(bench, model, bench.scale.small_frames, budget=budget, tokens=4)
        return True

    return bench.fits(work) is not None


def _road(
    bench: Bench,
    model: LlavaVideo,
    frames: int,
    *,
    budget: int | None = None,
    reduced: bool = True,
    tokens: int = 1,
) -> None:
    """From frames to the first tokens of an answer."""
    viewed, _ = bench.view(model, frames, reduced=reduced, budget=budget)
    prompt = bench.prompt(model, viewed)
    bench.generated(model, prompt, viewed.prunes, tokens)


def peak(bench: Bench) -> Found:
    """Over the model: from the frames to the first token, and the prefill alone."""
    model, frames = bench.model("nf4"), bench.scale.frames
    works: dict[str, Callable[[], None]] = {
        name: partial(_road, bench, model, frames, reduced=name == "reduced")
        for name in ("unreduced", "reduced")
    }
    for work in works.values():
        work()  # what libraries set up for these shapes stays
    held = bench.held()
    peaks = {name: max(1.0, bench.peak(work) - held) for name, work in works.items()}
    figures: dict[str, float | str] = {name: value / GIB for name, value in peaks.items()}
    # On a CPU freed memory hides what is used again.
    seen = min(peaks.values()) > 1
    figures["ratio"] = peaks["reduced"] / peaks["unreduced"] if seen else UNSEEN
    return figures, {"held_bytes": held, "peak_bytes": peaks}


def prediction(bench: Bench) -> Found:
    """The product's prediction against the measured peak, over frames x budgets, reduced; and
    unreduced at scale.frames."""
    model, scale = bench.model("nf4"), bench.scale
    ratios: dict[str, float] = {}
    details: dict[str, Any] = {}
    grid: list[tuple[int, int | None]] = [(scale.frames, None)]
    grid += [(frames, budget) for frames in scale.grid_frames for budget in scale.grid_budgets]
    for frames, budget in grid:
        if budget is not None and budget > model.spec.layout(frames).available:
            continue
        reduced = budget is not None
        work = partial(_road, bench, model, frames, reduced=reduced, budget=budget)
        measured, stages = bench.peak(work), foreseen(bench, model, frames, budget)
        fullest = max(stages, key=lambda stage: stage.total)
        name = f"{frames} frames, " + ("unreduced" if budget is None else f"budget {budget}")
        ratios[name] = fullest.total / measured
        details[name] = {
            "measured_bytes": measured,
            "predicted_bytes": fullest.total,
            "stage": fullest.name,
            "parts": dict(fullest.parts),
        }
    figures = {"worst_over": max(ratios.values()), "worst_under": min(ratios.values())}
    return figures, {"ratio": ratios, **details}


def foreseen(bench: Bench, model: LlavaVideo, frames: int, budget: int | None) -> Sequence[Stage]:
    """The stages of such a run; of one whose model is loaded already."""
    preset = "none" if budget is None else "aim"
    plan = bench.plan(model, preset, Overrides(frames=frames, budget=budget), float(frames))
    found = of_plan(
        model.spec,
        plan,
        text_tokens=bench.scale.text,
        quantize=model.quantize,
        dtype_bytes=model.dtype.itemsize,
        tower_batch=batch_of(bench.device),
        cuda=bench.on_gpu,
    )
    return [stage for stage in found.stages if stage.name != "load"]
