"""Scores a run on held-out scenes, straight on rendered frames: a check while training goes on.

Teacher-forced: an answer counts when every one of its tokens is the most likely one, which is what
greedy decoding would say. Merging is tokenreduce's own. The figures that are published come from
clips and the whole pipeline instead (`tokenreduce demo score`).

    python -m training.evaluate [--videos 60] [--frames 8 16 32] [--curve] [--rounded] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tokenreduce.budget import Layout
from tokenreduce.demo import questions, scenes
from tokenreduce.demo.questions import KINDS, NEEDLES, Question
from tokenreduce.demo.world import Scene
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.controls import Random, Uniform
from tokenreduce.paradigm import Method
from tokenreduce.reducer import Reducer
from training import batches, export
from training.batches import Words
from training.model import DEPTH, GRID, DemoModel, Packed, layout

log = logging.getLogger("training.evaluate")
METHODS: dict[str, Method | None] = {
    "full": None,
    "aim": AimMerge(),
    "random": Random(),
    "uniform": Uniform(),
    "pool": None,
}
# Grids nearest to a budget for the spatial mean; 3 x 3 and 2 x 3 were trained, 2 x 2 was not.
POOLS = {Fraction(1, 2): (4, 4), Fraction(1, 4): (3, 3), Fraction(1, 9): (2, 2)}


@dataclass(frozen=True)
class Mark:
    """One question answered: was it right, and did the sampled frames show the evidence."""

    video: int
    kind: str
    right: bool
    answerable: bool


@dataclass(frozen=True)
class Film:
    """A held-out scene as it was sampled: times in s, whole length in s, and its questions."""

    scene: Scene
    at: list[float]
    duration: float
    asked: list[Question]
    timed: bool


def film(number: int, frames: int) -> Film:
    """Held-out film `number`; the same scene and questions for every number of frames."""
    rng = np.random.default_rng((9, number))
    scene = scenes.sample((scenes.HELD_OUT, number), things=int(rng.integers(1, 7)))
    asked = questions.ask(scene, rng)
    at, duration = batches.times(scene, float(rng.choice(batches.RATES)), frames)
    return Film(scene, at, duration, asked, timed=number % 2 == 0)


def reduced(model: DemoModel, pooled: Tensor, method: str, keep: Fraction, seed: int) -> Tensor:
    """Pooled tokens [T, 36, d] to [1, n, d], newlines included."""
    frames = len(pooled)
    raw = Layout(frames, GRID, GRID, "grid")
    if method == "pool":
        grid = POOLS[keep]
        lines = keep.numerator * raw.per_frame // keep.denominator // (GRID + 1)
        where = layout([(False, lines)] * frames, grid)
        return model.visual(pooled[None], grid, where)
    budget = raw.available if method == "full" else int(raw.available * keep)
    reducer = Reducer(raw, budget, METHODS[method], model.newline, seed=seed)
    reducer.add(pooled)
    return reducer.finish().x


def mark(
    model: DemoModel, number: int, one: Film, packed: Packed, visual: Tensor, blind: int
) -> Iterator[Mark]:
    """The marks of all questions of a film, given its visual tokens [1, n, d]."""
    hidden, _ = model.answer(visual, packed, blind=blind)
    said = packed.targets >= 0
    logits = functional.linear(hidden[said], model.llm.lm_head.weight)
    right = torch.ones_like(said)
    right[said] = logits.argmax(-1) == packed.targets[said]
    for line, question in enumerate(one.asked):
        shown = questions.answerable(one.scene, question, one.at)
        yield Mark(number, question.kind, bool(right[0, line].all()), shown)


@torch.no_grad()
def run(
    model: DemoModel,
    words: Words,
    videos: Iterable[int],
    frames: int,
    settings: list[tuple[str, Fraction, int]],
) -> dict[tuple[str, Fraction, int], list[Mark]]:
    """All marks of each setting: (method, share kept, layer from which vision is hidden)."""
    marks: dict[tuple[str, Fraction, int], list[Mark]] = defaultdict(list)
    for number in videos:
        one = film(number, frames)
        shape = batches.whole(frames, one.timed)
        packed = batches.pack(words, shape, [(one.scene, one.at, one.duration, one.asked)]).packed
        pooled = model.see(packed.frames[0])
        for setting in settings:
            method, keep, blind = setting
            visual = reduced(model, pooled, method, keep, number)
            marks[setting] += mark(model, number, one, packed, visual, blind)
    return marks


def summary(marks: list[Mark]) -> dict[str, float]:
    """Shares right: answerable, all, needles (all), and answerable by kind."""

    def share(chosen: list[Mark]) -> float:
        return round(sum(m.right for m in chosen) / max(len(chosen), 1), 4)

    shown = [m for m in marks if m.answerable]
    found = {
        "answerable": share(shown),
        "all": share(marks),
        "needles": share([m for m in marks if m.kind in NEEDLES]),
        "questions": float(len(shown)),
    }
    return found | {kind: share([m for m in shown if m.kind == kind]) for kind in KINDS}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out film")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--keep", type=Fraction, nargs="*", default=[], help="shares to merge to")
    parser.add_argument("--methods", nargs="*", default=["aim", "random", "uniform", "pool"])
    parser.add_argument("--curve", action="store_true", help="hide vision from each layer on")
    parser.add_argument("--rounded", action="store_true", help="weights as they are exported")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = Words(options.folder)
    model = export.load(options.folder, words)
    if options.rounded:
        model = model.half().float()
    settings = [("full", Fraction(1), DEPTH)]
    settings += [(m, keep, DEPTH) for keep in options.keep for m in options.methods]
    if options.curve:
        settings += [("full", Fraction(1), layer) for layer in range(1, DEPTH)]
    films = range(options.first, options.first + options.videos)
    results = []
    for frames in options.frames:
        for (method, keep, blind), marks in run(model, words, films, frames, settings).items():
            found = summary(marks)
            results.append(
                {"frames": frames, "method": method, "keep": str(keep), "blind": blind, **found}
            )
            figures = " ".join(f"{name} {value:.3f}" for name, value in found.items())
            log.info("T=%d %s %s layers<%d %s", frames, method, keep, blind, figures)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
