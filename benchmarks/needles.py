"""Needles in an hour, and what leaving out repeated frames does to answers.

    python -m benchmarks.needles                        # all of it, resumable, two hours
    python -m benchmarks.needles --clips 2 --set selection --no-save            # a look

The embedded demo model, asked through a Session as a program would ask it. Hours: 48 clips with
stars that are there for 58 s of 3,600, under 2,000 visual tokens. Repeats: ordinary clips in which
nothing moves, and in which much does, the same questions with and without --skip-duplicates auto.
Rows are kept as they come. Intervals are 95 %, clips resampled; differences are paired by question.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import asking, record
from benchmarks.accuracy import SEEDS, interval, pairs, pick
from benchmarks.asking import Asking, Cell, by_cell
from benchmarks.needles_clips import BUDGET, FRAMES, NEEDLE_SECONDS, SAMPLINGS, cells, film
from tokenreduce.demo import questions

WANTED = {
    "needles": 0.9,  # at some count of 64 to 256 frames, by some preset
    "repeats": 0.01,  # of accuracy, between leaving repeats out and not
}
CLIPS = {"hour": 48, "static": 30, "busy": 30}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = asking.arguments(argparse.ArgumentParser(description=__doc__), max(CLIPS.values()))
    parser.add_argument("--set", choices=SEEDS, default="report", help="which clips (report)")
    parser.add_argument(
        "--rows-of", metavar="COMMIT", help="count rows that were all made at COMMIT (today's code)"
    )
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    options = parser.parse_args(arguments)
    weights = asking.identity(options.model)
    work = options.work or Path("runs") / f"needles-{options.set}-{weights['sha256'][:12]}"
    about = Asking(
        SEEDS[options.set], options.clips, options.jobs, options.only, options.model, work
    )
    if options.rows_of is None:
        run(about)
    found = {
        "seed": about.seed,
        "weights": weights,
        **result(about, any_code=bool(options.rows_of)),
    }
    print(json.dumps(found, indent=1))
    if not options.no_save:
        told = {"clips": options.clips, "set": options.set, "rows_of": options.rows_of}
        print(record.write("needles", found, told))
    return 0


def clips_of(cell: Cell, about: Asking) -> int:
    """How many clips the cell is asked about."""
    return min(about.clips, CLIPS[cell.extra["group"]], cell.clips or about.clips)


def run(about: Asking) -> None:
    """Asks what has not been asked yet."""
    if about.jobs == 1:
        _work(0, about)
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(job, about)) for job in range(about.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed; what it had finished is kept")


def _work(job: int, about: Asking) -> None:
    """Every jobs-th clip of each group, all cells."""
    import torch

    from tokenreduce.demo import clips
    from tokenreduce.models.load import load

    torch.set_num_threads(1)
    model = load(about.model, device="cpu")
    chosen = [cell for cell in cells() if any(part in cell.name for part in about.only.split("|"))]
    codes = {cell.name: asking.code_of(cell) for cell in chosen}
    about.work.mkdir(parents=True, exist_ok=True)
    done = {(row["setting"], row["index"], row.get("code")) for row in asking.rows(about.work)}
    with (about.work / f"rows-{os.getpid()}.jsonl").open("a") as file:
        for index in range(job, about.clips, about.jobs):
            for group in CLIPS:
                left = [
                    cell
                    for cell in chosen
                    if cell.extra["group"] == group
                    and index < clips_of(cell, about)
                    and (cell.name, index, codes[cell.name]) not in done
                ]
                if not left:
                    continue
                scene, rate, asked = film(group, about.seed, index)
                path = about.work / f"{group}-{index:03d}-{os.getpid()}.mp4"
                clips.write(path, scene, rate)
                for cell in left:
                    row = ask(model, path, scene, asked, cell)
                    row |= {"setting": cell.name, "index": index, "code": codes[cell.name]}
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                path.unlink()


def ask(model: Any, path: Path, scene: Any, asked: Sequence[Any], cell: Cell) -> dict[str, Any]:
    """All questions in one session."""
    from tokenreduce.demo.score import matches
    from tokenreduce.models.base import Sampling
    from tokenreduce.opening import Wanted
    from tokenreduce.session import Session

    answers, facts = [], {}
    wanted = Wanted(path, cell.preset, cell.over, Sampling(8))
    with Session(wanted, model=model, many=True) as session:
        for question in asked:
            given = session.ask(question.text)
            used = given.frames
            answers.append(
                {
                    "kind": question.kind,
                    "truth": question.answer,
                    "said": given.answer,
                    "correct": matches(given.answer, question.answer),
                    "answerable": questions.answerable(scene, question, used.seconds),
                }
            )
            facts = {
                "frames": used.decoded,
                "repeats": used.repeats,
                "tokens": given.tokens.merged,
                "text_tokens": given.tokens.text,
            }
    return {**facts, "answers": answers}


Rows = Mapping[int, Mapping[str, Any]]


def result(about: Asking, *, any_code: bool = False) -> dict[str, Any]:
    """Of the cells that are finished. any_code: see `asking.by_cell`."""
    kept: dict[str, Rows] = {}
    for cell in cells():
        of = Asking(about.seed, clips_of(cell, about), 1, "", about.model, about.work)
        kept |= by_cell([cell], of, any_code=any_code)
    hours = list(_hours(kept))
    repeats = list(_repeats(kept))
    best = max((one["all"]["value"] for one in hours if one["claimed"]), default=None)
    return {
        "needle_seconds": NEEDLE_SECONDS,
        "budget": BUDGET,
        "hours": hours,
        "repeats": repeats,
        "wanted": WANTED,
        "best": best,
        "met": {
            "needles": best is not None and best >= WANTED["needles"],
            "repeats": bool(repeats)
            and all(abs(one["difference"]["value"]) <= WANTED["repeats"] for one in repeats),
        },
    }


def _hours(kept: Mapping[str, Rows]) -> Iterator[dict[str, Any]]:
    """claimed: one of the counts of frames that the claim names, nothing else changed."""
    plain = {f"{frames} frames" for frames in FRAMES}
    for cell in cells():
        rows = kept.get(cell.name)
        if cell.extra["group"] != "hour" or rows is None:
            continue
        yield {
            **{name: cell.extra[name] for name in ("preset", "way")},
            "claimed": cell.extra["way"] in plain,
            "clips": len(rows),
            **{name: _mean(rows, name) for name in ("frames", "repeats", "tokens", "text_tokens")},
            "all": interval(pick(rows, bool)),
            "answerable": interval(pick(rows, lambda answer: bool(answer["answerable"]))),
            "by_kind": {
                kind: interval(pick(rows, lambda answer, kind=kind: answer["kind"] == kind))
                for kind in questions.NEEDLES
            },
        }


def _repeats(kept: Mapping[str, Rows]) -> Iterator[dict[str, Any]]:
    """difference: accuracy with repeats left out less that without."""
    for group in ("static", "busy"):
        for sampling in SAMPLINGS:
            name = f"{group}/balanced/{sampling}, skip"
            off, auto = kept.get(f"{name} off"), kept.get(f"{name} auto")
            if off is None or auto is None:
                continue
            yield {
                "clips": group,
                "sampling": sampling,
                "off": interval(pick(off, bool)),
                "auto": interval(pick(auto, bool)),
                "difference": interval(pairs(auto, off, bool)),
                "sampled": _mean(off, "frames"),
                "encoded": _mean(auto, "frames"),
                "tokens": {"off": _mean(off, "tokens"), "auto": _mean(auto, "tokens")},
            }


def _mean(rows: Rows, name: str) -> float:
    found = [row[name] for row in rows.values() if name in row]
    return float(sum(found) / len(found)) if found else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
