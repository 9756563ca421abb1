"""Every method and control side by side at equal mean visual tokens a layer of the LLM.

    python -m benchmarks.accuracy                        # the whole grid, resumable, hours
    python -m benchmarks.accuracy --questions 200        # a look
    python -m benchmarks.accuracy --only fastv --set selection

The embedded demo model answers held-out questions through the real pipeline, greedily and without
the time sentence (which makes no difference at 16 frames, see docs/demo-model.md, and halves the
work). A share of 25 % is a mean over layers of a quarter of the raw tokens, wherever a method
removes them. Clips of --set report are those that figures quote; --set selection is for trying
things out. Intervals are 95 %, clips resampled; differences are paired by question.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import asking, record
from benchmarks.asking import Asking, Cell, by_cell
from tokenreduce.cost import llm_cost
from tokenreduce.demo import questions
from tokenreduce.errors import SettingError
from tokenreduce.models.base import Sampling
from tokenreduce.models.locate import read_spec
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Overrides, settle
from tokenreduce.preset import load_preset
from tokenreduce.recipes import recipe_names
from tokenreduce.solving import per_layer

SEEDS = {"report": 90_210, "selection": 31_415}
PER_CLIP = 14.9  # questions of a clip, on average
SHARES = (0.5, 0.25, 0.11, 0.056, 0.028)
OTHER_FRAMES = (8, 32, 64)
OWN, RIVALS = "drift", ("random", "aim")  # each is paired with these, our own with every one
EVERYWHERE = ("drift", "aim", "random", "uniform", "pooling")  # also at other frame counts
DRAWS = 1000
TEXT = 30  # text tokens of a typical question, without the time sentence


def cells(model: str = "demo") -> list[Cell]:
    """The grid, the cheapest and most telling first."""
    names = [name for name in recipe_names() if name != "none"]
    grid = [(16, share, name) for share in (*SHARES[1:], SHARES[0]) for name in names]
    grid += [(n, share, name) for n in OTHER_FRAMES for share in SHARES for name in EVERYWHERE]
    spec = read_spec(model)
    found = [_cell("none", frames, 1.0, None) for frames in (16, *OTHER_FRAMES)]
    for frames, share, name in grid:
        found.append(_cell(name, frames, share, int(spec.layout(frames).available * share)))
    return found


def _cell(method: str, frames: int, share: float, mean: int | None) -> Cell:
    over = Overrides(mean_budget=mean, method=method, frames=frames, time_text=False)
    about = {"method": method, "frames": frames, "share": share, "mean_budget": mean}
    return Cell(f"{method}/{frames}/{share:g}", load_preset("none"), over, extra=about)


def main() -> None:
    parser = asking.arguments(argparse.ArgumentParser(description=__doc__), 70)
    parser.add_argument("--questions", type=int, help="at least so many, instead of --clips")
    parser.add_argument("--set", choices=SEEDS, default="report", help="which clips (report)")
    parser.add_argument("--name", default="accuracy", help="of the result (accuracy)")
    parser.add_argument(
        "--rows-of", metavar="COMMIT", help="summarise rows made there; ask nothing"
    )
    parser.add_argument("--no-save", action="store_true", help="print a table only")
    options = parser.parse_args()
    weights = asking.identity(options.model)
    clips = options.clips if options.questions is None else round(options.questions / PER_CLIP + 1)
    work = options.work or Path("runs") / f"grid-{options.set}-{weights['sha256'][:12]}"
    about = Asking(SEEDS[options.set], clips, options.jobs, options.only, options.model, work)
    every = partial(cells, options.model)
    if options.rows_of is None:
        asking.run(every, about)
    kept = by_cell(every(), about, any_code=options.rows_of is not None)
    found = result(every(), kept, options.model)
    print(table(found))
    if not options.no_save:
        facts = {"clips": clips, "set": options.set, "seed": about.seed, "weights": weights}
        facts["rows_of"] = options.rows_of or made_at(kept)
        print(record.write(options.name, {**facts, "cells": found}, {"model": options.model}))


def made_at(kept: Mapping[str, dict[int, Any]]) -> dict[str, int]:
    """How many rows were made at which commit. Older ones count where the code that makes a cell's
    choice has not changed since, or has been shown not to change it."""
    return dict(Counter(str(row.get("commit")) for rows in kept.values() for row in rows.values()))


def result(
    every: Sequence[Cell], kept: Mapping[str, dict[int, Any]], model: str = "demo"
) -> list[dict[str, Any]]:
    """One entry a finished cell. refused: why a method cannot reach the share."""
    spec = read_spec(model)
    found = []
    for cell in every:
        rows = kept.get(cell.name)
        if rows is None:
            continue
        refused = next((row["refused"] for row in rows.values() if "refused" in row), None)
        flops = 0
        try:
            flops = _llm_flops(cell, spec)
        except SettingError as today:  # where the rows are of a commit that did not refuse
            refused = refused or str(today)
        if refused is not None:
            found.append({**cell.extra, "refused": refused})
            continue
        one = {**cell.extra, "tokens": _mean(rows, "tokens"), "mean": _mean(rows, "mean_tokens")}
        one |= {"llm_flops": flops, **_figures(rows)}
        rivals = RIVALS if cell.extra["method"] != OWN else recipe_names()
        one["over"] = {
            rival: {
                "all": interval(pairs(rows, other, bool)),
                "needles": interval(pairs(rows, other, needle)),
            }
            for rival in rivals
            if (other := _same(kept, cell, rival)) is not None
        }
        found.append(one)
    return found


def _same(kept: Mapping[str, dict[int, Any]], cell: Cell, rival: str) -> dict[int, Any] | None:
    """The rows of another method at the cell's frames and share, if it has answered there."""
    rows = kept.get(f"{rival}/{cell.extra['frames']}/{cell.extra['share']:g}")
    if rival == cell.extra["method"] or rows is None:
        return None
    return None if any("refused" in row for row in rows.values()) else rows


def _llm_flops(cell: Cell, spec: ModelSpec) -> int:
    """Of the language model's prefill with TEXT tokens of text, what a method itself computes left
    out: benchmarks/methods.py has that."""
    plan = settle(cell.preset, spec, cell.over, Sampling())
    layout = spec.layout(plan.frames)
    visual = min(plan.budget_for(layout.available), layout.available)
    schedules = [prune.schedule for prune in plan.prunes_for(visual)]
    return llm_cost(spec.text, per_layer(schedules, spec.text.layers, visual), TEXT).total


def _mean(rows: Mapping[int, Any], what: str) -> float:
    return float(sum(row[what] for row in rows.values()) / len(rows))


def _figures(rows: Mapping[int, Any]) -> dict[str, Any]:
    picked = {
        "all": pick(rows, bool),
        "answerable": pick(rows, lambda a: a["answerable"]),
        "needles": pick(rows, needle),
    }
    kinds = {kind: pick(rows, lambda a, k=kind: a["kind"] == k) for kind in questions.KINDS}
    return {name: interval(own) for name, own in picked.items()} | {
        "by_kind": {kind: interval(own) for kind, own in kinds.items()}
    }


def needle(answer: Mapping[str, Any]) -> bool:
    """Whether it was asked about something small or brief."""
    return answer["kind"] in questions.NEEDLES


def pick(rows: Mapping[int, Any], which: Any) -> list[list[float]]:
    """Right (1) and wrong (0) of the questions that `which` takes, clip by clip."""
    return [[float(a["correct"]) for a in row["answers"] if which(a)] for row in rows.values()]


def pairs(rows: Mapping[int, Any], other: Mapping[int, Any], which: Any) -> list[list[float]]:
    """Right or wrong in `rows` less the same in `other`, of what `which` takes, clip by clip."""
    return [
        [
            float(a["correct"]) - float(b["correct"])
            for a, b in zip(row["answers"], other[index]["answers"], strict=True)
            if which(a)
        ]
        for index, row in rows.items()
    ]


def interval(clips: Sequence[Sequence[float]], draws: int = DRAWS) -> dict[str, float]:
    """The mean over all values, and the 2.5th and 97.5th percentile of it when whole clips are
    drawn anew with replacement: questions of one clip are not independent."""
    sums = [(sum(values), len(values)) for values in clips]
    count = sum(n for _, n in sums)
    if count == 0:
        return {"value": 0.0, "low": 0.0, "high": 0.0, "questions": 0}
    chance = random.Random(0)
    means = sorted(_resampled(sums, chance) for _ in range(draws))
    low, high = means[int(0.025 * draws)], means[int(0.975 * draws) - 1]
    return {"value": sum(s for s, _ in sums) / count, "low": low, "high": high, "questions": count}


def _resampled(sums: Sequence[tuple[float, int]], chance: random.Random) -> float:
    drawn = chance.choices(sums, k=len(sums))
    return sum(s for s, _ in drawn) / max(1, sum(n for _, n in drawn))


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A text table, a line a cell."""

    def lines() -> Iterator[str]:
        for one in found:
            head = f"{one['method']:14} {one['frames']:3} {one['share']:6g}"
            if "refused" in one:
                yield f"{head}  {one['refused']}"
                continue
            figures = {name: one[name] for name in ("all", "needles")}
            figures |= {f"over {rival}": one["over"][rival]["all"] for rival in one["over"]}
            shown = " ".join(
                f"{name} {figures[name]['value']:.3f} "
                f"[{figures[name]['low']:.3f}, {figures[name]['high']:.3f}]"
                for name in ("all", "needles", "over random", "over aim")
                if name in figures
            )
            yield f"{head} {one['tokens']:7.1f} {one['mean']:7.1f}  {shown}"

    return "\n".join(lines())


if __name__ == "__main__":
    main()
