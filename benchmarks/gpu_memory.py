"""Memory on a GPU: what fits on small cards, what reduction saves, and what was predicted.

Sections of benchmarks/gpu.py, see there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.gpu_bench import GIB, Bench, NotDone
from benchmarks.gpu_rows import NO_FIT, Figures
from benchmarks.gpu_scale import Scale
from tokenreduce.footprint import Stage, of_plan
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.vision import batch_of
from tokenreduce.plan import Overrides

Found = tuple[Figures, dict[str, Any]]

CARDS = {"budget": 8.0, "budget_16": 16.0, "budget_24": 24.0}
"""GiB, less what the driver takes, of each row of the section."""

GRID = ("balanced", "aim")
"""Both ways to merge and to score; fast and accurate differ from balanced in counts alone."""

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
            _road(bench, model, bench.scale.small_frames, "aim", budget=budget, tokens=4)
        return True

    return bench.fits(work) is not None


def _road(
    bench: Bench,
    model: LlavaVideo,
    frames: int,
    preset: str,
    *,
    budget: int | None = None,
    tokens: int = 1,
) -> None:
    """From frames to the first tokens of an answer."""
    viewed, _ = bench.view(model, frames, preset, budget=budget)
    prompt = bench.prompt(model, viewed)
    bench.generated(model, prompt, viewed.prunes, tokens)


def peak(bench: Bench) -> Found:
    """Over the model: from the frames to the first token, and the prefill alone."""
    model, frames = bench.model("nf4"), bench.scale.frames
    works: dict[str, Callable[[], None]] = {
        name: partial(_road, bench, model, frames, preset)
        for name, preset in (("unreduced", "none"), ("reduced", "aim"))
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


@dataclass(frozen=True)
class Case:
    """One run whose peak is predicted. budget: None for the preset's own."""

    preset: str
    frames: int
    budget: int | None = None

    @property
    def name(self) -> str:
        budget = "its own budget" if self.budget is None else f"budget {self.budget}"
        return f"{self.preset}, {self.frames} frames, {budget}"


def cases(scale: Scale, available: Callable[[int], int]) -> list[Case]:
    """Unreduced; the default preset as it comes; and frames x budgets with GRID's presets in turn,
    like the colours of a chessboard, so that each number of frames and each budget meets both.

    available: visual tokens of so many frames; a budget of more is left out.
    """
    found = [Case("none", scale.frames), Case("balanced", 2 * scale.frames)]
    for row, frames in enumerate(scale.grid_frames):
        for column, budget in enumerate(scale.grid_budgets):
            if budget <= available(frames):
                found.append(Case(GRID[(row + column) % len(GRID)], frames, budget))
    return found


def prediction(bench: Bench) -> Found:
    """The product's prediction against the measured peak, case by case."""
    model = bench.model("nf4")
    ratios: dict[str, float] = {}
    details: dict[str, Any] = {}
    for case in cases(bench.scale, lambda frames: model.spec.layout(frames).available):
        work = partial(_road, bench, model, case.frames, case.preset, budget=case.budget)
        measured, stages = bench.peak(work), foreseen(bench, model, case)
        fullest = max(stages, key=lambda stage: stage.total)
        ratios[case.name] = fullest.total / measured
        details[case.name] = {
            "preset": case.preset,
            "measured_bytes": measured,
            "predicted_bytes": fullest.total,
            "stage": fullest.name,
            "parts": dict(fullest.parts),
        }
    over, under = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
    figures = {"worst_over": ratios[over], "worst_under": ratios[under]}
    return figures, {"worst_over": over, "worst_under": under, "ratio": ratios, **details}


def foreseen(bench: Bench, model: LlavaVideo, case: Case) -> Sequence[Stage]:
    """The stages of such a run; of one whose model is loaded already."""
    over = Overrides(frames=case.frames, budget=case.budget)
    plan = bench.plan(model, case.preset, over, float(case.frames))
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
