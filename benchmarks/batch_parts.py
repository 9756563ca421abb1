"""Throughput and memory of benchmarks/batch.py: what is run, and what is read off it."""

from __future__ import annotations

import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.family import family_of, memory_bytes
from benchmarks.longvideo_runs import Failed
from benchmarks.record import Spread, rounds, run_process, spreads

QUESTIONS = (
    "What colour is the star that appears briefly?",
    "How many stars appear?",
    "Is there a red circle in the video?",
)
THROUGHPUT_RATIO, MEMORY_RATIO = 10.0, 1.03
HUNDRED = 100
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Setup:
    """clips: of throughput and overlap; many: of memory; repeats: of what is timed."""

    folder: Path
    command: tuple[str, ...]
    model: str
    clips: int
    many: int
    repeats: int

    def made(self, count: int) -> list[Path]:
        """The first clips of the demo's seed 7, made once."""
        folder = self.folder / f"clips-{count}"
        if not folder.exists():
            made = run_process(
                [*self.command, "demo", "make", str(folder), "--clips", str(count), "--seed", "7"]
            )
            if made.returncode:
                raise Failed(f"demo make: {made.stderr.strip()[-500:]}")
        return sorted(folder.glob("*.mp4"))


def throughput(setup: Setup) -> dict[str, Any]:
    """Answers a second of three ways to the same answers, and how many times a batch has those of
    a shell loop; medians of ratios within a round."""
    clips = setup.made(setup.clips)
    alike = ("--model", setup.model, "--no-cache", "--quiet")
    asked = [part for question in QUESTIONS for part in ("-q", question)]
    turn = iter(range(1_000_000))

    def loop() -> list[Sequence[str]]:
        return [("ask", str(clip), question) for clip in clips for question in QUESTIONS]

    def by_clip() -> list[Sequence[str]]:
        return [("ask", str(clip), *asked) for clip in clips]

    def batch() -> list[Sequence[str]]:
        output = setup.folder / f"out-{next(turn)}.jsonl"
        return [("batch", str(clips[0].parent), *asked, "-o", str(output))]

    def run(commands: Callable[[], list[Sequence[str]]]) -> dict[str, float]:
        wall = cpu = 0.0
        for command in commands():
            done = run_process([*setup.command, *command, *alike])
            if done.returncode:
                raise Failed(f"{command[0]}: {done.stderr.strip()[-500:]}")
            wall, cpu = wall + done.wall_seconds, cpu + done.cpu_seconds
        answers = len(clips) * len(QUESTIONS)
        return {"wall_seconds": wall, "cpu_seconds": cpu, "answers_per_minute": 60 * answers / wall}

    ways = {"loop over ask": loop, "ask for each clip": by_clip, "batch": batch}
    taken = rounds({name: partial(run, way) for name, way in ways.items()}, setup.repeats)
    walls = {name: [one["wall_seconds"] for one in runs] for name, runs in taken.items()}
    ratios = {
        name: Spread.of([one / own for one, own in zip(those, walls["batch"], strict=True)])
        for name, those in walls.items()
        if name != "batch"
    }
    return {
        "wanted": {"loop over ask": THROUGHPUT_RATIO},
        "measured": {
            "questions": len(QUESTIONS),
            "times": ratios,
            **{name: spreads(runs) for name, runs in taken.items()},
        },
        "met": ratios["loop over ask"].median >= THROUGHPUT_RATIO,
    }


def memory(setup: Setup) -> dict[str, Any]:
    """The resident sets of all processes of one batch, sampled; medians of the samples taken while
    each hundred rows were written, and the last hundred against the first."""
    clips = _many(setup)
    output = setup.folder / "many.jsonl"
    command = [*setup.command, "batch", str(clips), QUESTIONS[0], "-o", str(output), "--quiet"]
    process = subprocess.Popen(
        [*command, "--model", setup.model, "--no-cache"], stderr=subprocess.PIPE
    )
    samples: list[tuple[int, int]] = []
    while process.poll() is None:
        marks = [marks for pid in family_of(process.pid) if (marks := memory_bytes(pid))]
        samples.append((_lines(output), sum(now for _, now in marks)))
        time.sleep(_LOOK_SECONDS)
    _, errors = process.communicate()
    if process.returncode or _lines(output) != setup.many:
        raise Failed(f"batch ended with {process.returncode}: {errors.decode()[-500:]}")
    by_hundred = _by_hundred(samples, setup.many)
    ratio = by_hundred[-1] / by_hundred[0]
    return {
        "wanted": {"last_over_first": MEMORY_RATIO},
        "measured": {
            "clips": setup.many,
            "last_over_first": ratio,
            "bytes_by_hundred": by_hundred,
            "peak_bytes": max(held for _, held in samples),
            "samples": len(samples),
        },
        "met": ratio <= MEMORY_RATIO,
    }


def _by_hundred(samples: Sequence[tuple[int, int]], rows: int) -> list[float]:
    """Medians. The first rows are left out of the first hundred: the worker is still loading."""
    step = min(HUNDRED, max(1, rows // 2))
    found = []
    for start in range(0, rows - step + 1, step):
        first = start + (step // 10 if start == 0 else 0)
        held = [held for done, held in samples if first <= done < start + step and done]
        if not held:
            raise Failed("the clips were asked faster than memory can be sampled")
        found.append(float(statistics.median(held)))
    return found


def _many(setup: Setup) -> Path:
    """Copies of some clips, each with an empty box of its own at the end, so that no two have the
    same content; ISO/IEC 14496-12 lets readers skip a box of type `free`."""
    folder = setup.folder / "many"
    folder.mkdir(exist_ok=True)
    made = [clip.read_bytes() for clip in setup.made(min(40, setup.many))]
    for number in range(setup.many):
        box = struct.pack(">I4sI", 12, b"free", number)
        (folder / f"{number:04}.mp4").write_bytes(made[number % len(made)] + box)
    return folder


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
