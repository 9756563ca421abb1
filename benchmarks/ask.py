"""The demo question end to end, each time in a fresh process: wall, CPU seconds, peak memory.

    python -m benchmarks.ask --repeats 5

Runs the real command, imports and all: `tokenreduce ask CLIP QUESTION --model demo --json`. Knows
nothing of the library; what it reports about the inside is what the answer itself says.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import ProcessRun, run_process, spreads, write

QUESTION = "What colour is the star that appears briefly?"
WANTED = {"wall_seconds": 12.0, "peak_bytes": 1.5e9}


class Failed(Exception):
    """A command that had to succeed did not."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if hasattr(os, "sched_setaffinity"):  # children inherit it; macOS cannot be told
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    try:
        with tempfile.TemporaryDirectory() as folder:
            clip = options.clip or _make_clip(options.command, Path(folder))
            ask = [*options.command, "ask", str(clip), options.question, "--model", options.model]
            ask += ["--no-cache"]  # every run is a first question
            runs = [_asked([*ask, "--json"], options) for _ in range(options.repeats)]
    except Failed as failed:
        print(f"benchmarks.ask: {failed}", file=sys.stderr)
        return 1
    result = summary(runs)
    print(json.dumps(result, indent=2, default=vars))
    if options.save:
        settings = {n: getattr(options, n) for n in ("model", "question", "repeats", "cores")}
        write("ask", result, settings)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clip", type=Path, help="a video; default: clip 0 of the demo, seed 7")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes (5)")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores they may use (2)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a run may take (300)")
    parser.add_argument(
        "--command",
        type=shlex.split,
        default=[str(Path(sys.executable).parent / "tokenreduce")],
        help="what is run; default: the tokenreduce of this environment",
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ask.json")
    return parser.parse_args(arguments)


def _make_clip(command: Sequence[str], folder: Path) -> Path:
    made = run_process([*command, "demo", "make", str(folder), "--clips", "1", "--seed", "7"])
    clips = sorted(folder.glob("*.mp4"))
    if made.returncode != 0 or not clips:
        raise Failed(f"demo make exited with {made.returncode}: {made.stderr.strip()}")
    return clips[0]


def _asked(command: Sequence[str], options: argparse.Namespace) -> ProcessRun:
    run = run_process(command, timeout_seconds=options.timeout)
    if run.returncode != 0:
        raise Failed(f"ask exited with {run.returncode}: {run.stderr.strip()}")
    return run


def summary(runs: Sequence[ProcessRun]) -> dict[str, Any]:
    """Spreads over all runs, the first one apart: it may have found a cold page cache.

    peak_bytes is of the largest process; the decoding child comes on top of it.
    """
    outside = [
        {"wall_seconds": r.wall_seconds, "cpu_seconds": r.cpu_seconds, "peak_bytes": r.peak_bytes}
        for r in runs
    ]
    answers = [json.loads(run.stdout) for run in runs]
    spread = spreads(outside)
    return {
        "answers": sorted({answer["answer"] for answer in answers}),
        "tokens": answers[0]["tokens"],
        "process": spread,
        "first_run": outside[0],
        "inside_seconds": spreads([answer["seconds"] for answer in answers]),
        "wanted": WANTED,
        "met": all(spread[name].median <= limit for name, limit in WANTED.items()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
