"""What each part of `drift` does, and which of its schedules the presets take, on selection clips.

    python -m benchmarks.ablation                 # resumable, about 15 minutes on two idle cores

The clips, questions and way of asking of `benchmarks.accuracy --set selection`: nothing here is
quoted as the accuracy of a method, it only says why the method is as it is. Differences are paired
by question with the first row of their share, intervals are 95 %, clips resampled.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks import asking, record
from benchmarks.accuracy import SEEDS, interval, needle, pairs, pick
from benchmarks.asking import Asking, Cell, by_cell
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.ask_prune import AskPrune
from tokenreduce.methods.drift_merge import DriftMerge
from tokenreduce.models.locate import read_spec
from tokenreduce.plan import Overrides
from tokenreduce.preset import Preset, Stage, load_preset
from tokenreduce.schedule import Once

SHARES = (0.25, 0.056, 0.028)
CLIPS = 16
FRAMES = 16

MERGED, PRUNED = Stage("clip", DriftMerge()), Stage("llm", AskPrune())


def _once(after: str, keep: str) -> Stage:
    return Stage("llm", AskPrune(), Once(Fraction(after), Fraction(keep)))


VARIANTS: dict[str, tuple[Stage, ...]] = {
    "drift": (MERGED, PRUNED),
    "without pruning by the question": (MERGED,),
    "AIM's merging instead": (Stage("frames", AimMerge()), PRUNED),
    "no look back to the frame before": (Stage("clip", DriftMerge(back=0)), PRUNED),
    "looking two frames back": (Stage("clip", DriftMerge(back=2)), PRUNED),
    "half of the tokens a round": (Stage("clip", DriftMerge(step=0.5)), PRUNED),
    "an eighth of the tokens a round": (Stage("clip", DriftMerge(step=0.125)), PRUNED),
    "pruned to a half": (MERGED, _once("1/4", "1/2")),
    "pruned to an eighth": (MERGED, _once("1/4", "1/8")),
    "pruned after half of the depth": (MERGED, _once("1/2", "1/4")),
}
PRESETS: dict[str, tuple[tuple[str, str], ...]] = {
    "fast": (("1/4", "1/4"), ("1/3", "1/8"), ("1/2", "1/8")),
    "balanced": (("1/4", "1/2"), ("1/3", "1/4"), ("1/2", "1/4")),
    "accurate": (("1/2", "1/2"), ("1/2", "1/4"), ("2/3", "1/4")),
}


def cells() -> list[Cell]:
    spec, base = read_spec("demo"), load_preset("none")
    found = []
    for share in SHARES:
        mean = int(spec.layout(FRAMES).available * share)
        for name, stages in VARIANTS.items():
            over = Overrides(mean_budget=mean, frames=FRAMES, time_text=False)
            about = {"variant": name, "share": share}
            preset = replace(base, stage=stages)
            found.append(Cell(f"{name}/{share:g}", preset, over, extra=about))
    return found + [_preset(name, *way) for name, ways in PRESETS.items() for way in ways]


def _preset(name: str, after: str, keep: str) -> Cell:
    shipped = load_preset(name)
    before = shipped.before_llm
    stages = (_once(after, keep),) if before is None else (before, _once(after, keep))
    preset: Preset = replace(shipped, stage=stages)
    about = {"preset": name, "after": after, "keep": keep}
    return Cell(f"{name} {after} {keep}", preset, Overrides(time_text=False), extra=about)


def main() -> None:
    parser = asking.arguments(argparse.ArgumentParser(description=__doc__), CLIPS)
    options = parser.parse_args()
    weights = asking.identity(options.model)
    work = options.work or Path("runs") / f"ablation-{weights['sha256'][:12]}"
    seed = SEEDS["selection"]
    about = Asking(seed, options.clips, options.jobs, options.only, options.model, work)
    asking.run(cells, about)
    found = result(cells(), by_cell(cells(), about))
    for one in found:
        print(_line(one))
    facts = {"clips": options.clips, "set": "selection", "seed": seed, "weights": weights}
    print(record.write("ablation", {**facts, "cells": found}, {"model": options.model}))


def result(every: Sequence[Cell], kept: Mapping[str, dict[int, Any]]) -> list[dict[str, Any]]:
    """One entry a finished cell, with its difference from the first of its share or preset."""
    found, first = [], dict[object, Mapping[int, Any]]()
    for cell in every:
        rows = kept.get(cell.name)
        if rows is None:
            continue
        base = first.setdefault(cell.extra.get("share", cell.extra.get("preset")), rows)
        mean = sum(row["mean_tokens"] for row in rows.values()) / len(rows)
        entry = {**cell.extra, "mean": mean}
        for name, which in (("all", bool), ("needles", needle)):
            entry[name] = interval(pick(rows, which))
            if base is not rows:
                entry[f"{name} over first"] = interval(pairs(rows, base, which))
        found.append(entry)
    return found


def _line(one: Mapping[str, Any]) -> str:
    name = one.get("variant") or f"{one['preset']} {one['after']} {one['keep']}"
    shown = f"{name:34} {one.get('share', ''):6} {one['mean']:6.1f}"
    for what in ("all", "needles"):
        shown += f"  {what} {one[what]['value']:.3f}"
        if apart := one.get(f"{what} over first"):
            shown += f" ({apart['value']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}])"
    return shown


if __name__ == "__main__":
    main()
