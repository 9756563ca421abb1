"""Accuracy of the embedded demo model on held-out clips, through the real pipeline.

    python -m benchmarks.demo_accuracy [--clips 88] [--jobs 2] [--only SUBSTRING]

Files are generated, decoded, encoded once per frame count, then reduced and asked in many ways.
Resumable: every clip's rows are written as they come to runs/accuracy-<digest of the weights>. The
result holds each setting's accuracy with a standard error over clips, and the checks that
docs/demo-model.md quotes, as differences paired by question. Knows the pipeline's steps; measures
no time.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks import asking, record
from benchmarks.asking import Asking, Cell, by_cell
from tokenreduce.budget import NewlineKeep
from tokenreduce.demo import questions
from tokenreduce.demo.score import Row, share
from tokenreduce.methods import METHODS
from tokenreduce.plan import Overrides
from tokenreduce.preset import Preset, Stage, VideoSettings
from tokenreduce.schedule import SCHEDULES

SEED = 90_210  # of the clip sets; training draws from other keys
FULL = Fraction(1)
CURVE_CLIPS = 24


@dataclass(frozen=True)
class Setting:
    """One way of asking. budget: tokens, else `keep` of the raw count. at_llm: the method inside
    the LLM and its schedule, as (method, schedule name, numbers)."""

    name: str
    frames: int
    method: str | None = None
    keep: Fraction = FULL
    budget: int | None = None
    at_llm: tuple[str, str, tuple[Fraction, ...]] | None = None
    newlines: NewlineKeep = "share"
    crf: int = 23
    time_text: bool = True
    clips: int | None = None  # at most so many, where a curve needs fewer


RAMP = ("ramp", (Fraction(1, 2), Fraction(11, 14)))
# Where attention has found the evidence and has not yet read it: a quarter of the depth.
EARLY = ("once", (Fraction(1, 4), Fraction(1, 8)))


def settings() -> Iterator[Setting]:
    """All that is measured; names are the keys of the result."""
    for frames in (8, 16, 32):
        yield Setting(f"full-{frames}", frames)
    yield Setting("full-16-no-time", 16, time_text=False)
    for keep in (Fraction(1, 4), Fraction(1, 9)):
        for method in ("aim-merge", "random", "uniform"):
            yield Setting(f"{method}-{float(keep):.3f}-16", 16, method, keep)
    quarter = Fraction(1, 4)
    for prune in ("aim-prune", "random"):
        name = f"merge-0.250-16-{prune}"
        yield Setting(f"{name}-ramp", 16, "aim-merge", quarter, at_llm=(prune, *RAMP))
        yield Setting(f"{name}-early", 16, "aim-merge", quarter, at_llm=(prune, *EARLY))
        yield Setting(f"full-16-{prune}-early", 16, at_llm=(prune, *EARLY))
    for frames in (16, 32, 64):
        yield Setting(f"budget-336-of-{frames}", frames, "aim-merge", budget=336)
    others: tuple[NewlineKeep, ...] = ("frame", "none")
    for newlines in others:
        for keep in (quarter, Fraction(1, 9)):
            yield Setting(
                f"newlines-{newlines}-{float(keep):.3f}", 16, "aim-merge", keep, newlines=newlines
            )
    for crf in (0, 30):
        yield Setting(f"crf-{crf}-16", 16, crf=crf)
    for layer in range(1, 12):
        yield Setting(
            f"drop-all-from-{layer:02d}",
            16,
            at_llm=("uniform", "once", (Fraction(layer - 1, 12), Fraction(0))),
            clips=CURVE_CLIPS,
        )


def cells() -> list[Cell]:
    return [cell(setting) for setting in settings()]


def main() -> None:
    parser = asking.arguments(argparse.ArgumentParser(description=__doc__), 88)
    parser.add_argument("--name", default="demo_accuracy")
    options = parser.parse_args()
    weights = asking.identity(options.model)
    work = options.work or Path("runs") / f"accuracy-{weights['sha256'][:12]}"
    about = Asking(SEED, options.clips, options.jobs, options.only, options.model, work)
    asking.run(cells, about)
    found = {"weights": weights, **summary(about)}
    path = record.write(options.name, found, {"clips": options.clips, "model": options.model})
    print(path)


def cell(setting: Setting) -> Cell:
    stages = []
    if setting.method is not None:
        stages.append(Stage("frames", METHODS[setting.method]()))
    if setting.at_llm is not None:
        name, schedule, numbers = setting.at_llm
        stages.append(Stage("llm", METHODS[name](), SCHEDULES[schedule](*numbers)))
    chosen = Preset(
        name=setting.name,
        summary="a setting of benchmarks/demo_accuracy.py",
        video=VideoSettings(FULL),
        keep=setting.keep,
        newlines=setting.newlines,
        stage=tuple(stages),
    )
    over = Overrides(budget=setting.budget, frames=setting.frames, time_text=setting.time_text)
    return Cell(setting.name, chosen, over, setting.crf, setting.clips, {"frames": setting.frames})


def summary(about: Asking) -> dict[str, Any]:
    """Accuracy of each setting over all clips asked for: everywhere, answerable, needles."""
    kept = by_cell(cells(), about)
    found = {
        each.name: {
            **each.extra,
            "clips": about.of(each),
            **tokens_of(kept[each.name].values()),
            **shares(kept[each.name]),
        }
        for each in cells()
        if each.name in kept
    }
    return {
        "clips": about.clips,
        "seed": SEED,
        "settings": found,
        "checks": list(checks(kept, about.clips)),
    }


def tokens_of(rows: Collection[dict[str, Any]]) -> dict[str, float]:
    """Means over clips."""
    return {
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        "mean_tokens_per_layer": sum(row["mean_tokens"] for row in rows) / len(rows),
    }


def shares(rows: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Right answers with standard errors over clips: all, answerable, needles, by kind."""
    flat = [
        Row(str(index), a["kind"], "", "", "", a["correct"], a["answerable"])
        for index, row in rows.items()
        for a in row["answers"]
    ]
    kinds = {kind: [r for r in flat if r.kind == kind] for kind in questions.KINDS}
    return {
        "all": asdict(share(tuple(flat))),
        "answerable": asdict(share(tuple(r for r in flat if r.answerable))),
        "needles": asdict(share(tuple(r for r in flat if r.kind in questions.NEEDLES))),
        "by_kind": {kind: asdict(share(tuple(own))) for kind, own in kinds.items()},
    }


@dataclass(frozen=True)
class Check:
    """What must hold: first minus second, over the questions that `of` picks."""

    says: str
    first: str
    second: str
    at_least: float
    of: str = "all"


CHECKS = (
    Check("AIM merged to 25 % within .02 of full", "aim-merge-0.250-16", "full-16", -0.02),
    Check("AIM merged to 11 % above random by .05", "aim-merge-0.111-16", "random-0.111-16", 0.05),
    Check(
        "25 % + AIM pruning within .03 of merging alone",
        "merge-0.250-16-aim-prune-ramp",
        "aim-merge-0.250-16",
        -0.03,
    ),
    Check(
        "AIM pruning above random by .03 on needles, early, unmerged",
        "full-16-aim-prune-early",
        "full-16-random-early",
        0.03,
        "needles",
    ),
    Check(
        "AIM pruning above random by .03 on needles, early, merged",
        "merge-0.250-16-aim-prune-early",
        "merge-0.250-16-random-early",
        0.03,
        "needles",
    ),
    Check(
        "the same over all questions, unmerged",
        "full-16-aim-prune-early",
        "full-16-random-early",
        0.03,
    ),
    Check(
        "32 merged frames above 8 full ones by .2 on needles, 336 tokens",
        "budget-336-of-32",
        "full-8",
        0.2,
        "needles",
    ),
    Check("H.264 at crf 30 within .01 of uncompressed", "crf-30-16", "crf-0-16", -0.01),
    Check("H.264 at crf 23 within .01 of uncompressed", "full-16", "crf-0-16", -0.01),
)


def checks(
    by_setting: dict[str, dict[int, dict[str, Any]]], clips: int
) -> Iterator[dict[str, Any]]:
    """Each check's mean difference, paired by question, with its standard error over clips."""
    for check in CHECKS:
        one, other = by_setting.get(check.first, {}), by_setting.get(check.second, {})
        if any(index not in one or index not in other for index in range(clips)):
            continue
        pairs = [
            (index, a["correct"] - b["correct"])
            for index in range(clips)
            for a, b in zip(one[index]["answers"], other[index]["answers"], strict=True)
            if check.of == "all" or a["kind"] in questions.NEEDLES
        ]
        mean = sum(difference for _, difference in pairs) / len(pairs)
        residues: dict[int, float] = {}
        for index, difference in pairs:
            residues[index] = residues.get(index, 0.0) + difference - mean
        error = sum(value**2 for value in residues.values()) ** 0.5 / len(pairs)
        yield {
            **asdict(check),
            "difference": mean,
            "standard_error": error,
            "questions": len(pairs),
            "holds": mean >= check.at_least,
        }


if __name__ == "__main__":
    main()
