"""The parts of reading a long video against each other: overlap, seeking, and asking again.

Overlap is measured inside this process, with the tool's own steps: both parts together, decoding
alone, and encoding and reducing alone, of the same frames handed over from memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks import decode
from benchmarks.family import cpu_seconds
from benchmarks.longvideo_runs import QUESTION, Failed, Setup
from benchmarks.record import Spread, rounds, run_process, spreads

OVERLAP_RATIO = 1.15
KEYFRAME_CPU_SECONDS, BARE_RATIO = 3.0, 1.1
SEEK_FRAMES = 64
SECOND_RATIO = 10.0
CLIP_MINUTES = 5.0
OTHER = "Is there a red circle in the video?"


@dataclass
class _Replayed:
    """Stands where the decoder does: what it gives once, and after that from memory. Keeps the
    order it was given, so that the decoder can be run alone."""

    child: Any
    items: list[Any] | None = None
    order: tuple[Any, ...] = ()

    def stream(self, *order: Any) -> Iterator[Any]:
        if self.items is None:
            self.order, self.items = order, list(self.child.stream(*order))
        yield from self.items


def overlap(setup: Setup) -> dict[str, Any]:
    """Seconds of both, of each alone, and CPU seconds over cores, on the shortest film."""
    from tokenreduce.clock import Clock
    from tokenreduce.models.base import Sampling
    from tokenreduce.models.load import load
    from tokenreduce.plan import Overrides, of_video, settle
    from tokenreduce.preset import load_preset
    from tokenreduce.subject import Footage
    from tokenreduce.video.decoder import Decoder
    from tokenreduce.viewing import see

    path = setup.film("busy", setup.minutes[0])
    model = load(setup.model)
    preset = load_preset(setup.presets[0])
    over = Overrides(fps=setup.fps, budget=setup.budget, skip_duplicates="off")
    with Decoder() as child:
        probe = child.probe(path)
        settled = settle(preset, model.spec, over, Sampling())
        plan = of_video(settled, model.spec, probe.seconds, probe.fps, path.name)
        replayed = _Replayed(child)

        def view(decoder: Any) -> None:
            see(cast(Decoder, decoder), model, Footage(probe), plan, Clock())

        view(replayed)  # the frames to hand over, and whatever is set up once
        cases: dict[str, Callable[[], object]] = {
            "both": partial(view, child),
            "decode": lambda: list(child.stream(*replayed.order)),
            "encode": partial(view, replayed),
        }
        timed = {name: partial(_timed, child, case) for name, case in cases.items()}
        taken = rounds(timed, setup.repeats)
    cores = _cores()
    bounds = [
        max(alone["wall_seconds"], encode["wall_seconds"], both["cpu_seconds"] / cores)
        for both, alone, encode in zip(*taken.values(), strict=True)
    ]
    walls = [both["wall_seconds"] for both in taken["both"]]
    ratio = Spread.of([wall / bound for wall, bound in zip(walls, bounds, strict=True)])
    return {
        "wanted": {"ratio": OVERLAP_RATIO},
        "measured": {
            "ratio": ratio,
            "frames": len(replayed.items or ()) - 1,  # the End is no frame
            "cores": cores,
            "bound_seconds": Spread.of(bounds),
            **{name: spreads(runs) for name, runs in taken.items()},
        },
        "met": ratio.median <= OVERLAP_RATIO,
    }


def _timed(child: Any, case: Callable[[], object]) -> dict[str, float]:
    """Wall seconds, and CPU seconds of this process and of the decoding child."""
    before = cpu_seconds(child.pid) or 0.0
    wall, own = time.perf_counter(), time.process_time()
    case()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    after = cpu_seconds(child.pid)
    if after is None:
        raise RuntimeError("CPU seconds of another process can be measured on Linux only")
    return {"wall_seconds": wall, "cpu_seconds": own + after - before}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seek(setup: Setup, gop: int = 250) -> dict[str, Any]:
    """SEEK_FRAMES of the middle film's length by the tool's decoding and by a bare loop, each a
    process of its own, start and imports included. See benchmarks/decode.py."""
    minutes = setup.minutes[len(setup.minutes) // 2]
    path = decode.write_video(setup.folder / f"seek-{gop}.mp4", gop, minutes)
    names = ("bare loop", "pyav exact", "pyav keyframe")
    command = [sys.executable, "-m", "benchmarks.decode", "--frames", str(SEEK_FRAMES), "--worker"]

    def run(name: str) -> dict[str, float]:
        done = run_process([*command, str(path), *decode.CASES[name]], cwd=_ROOT)
        if done.returncode:
            raise Failed(f"{name}: {done.stderr.strip()[-500:]}")
        return {"cpu_seconds": done.cpu_seconds, "wall_seconds": done.wall_seconds}

    taken = rounds({name: partial(run, name) for name in names}, setup.repeats)
    bare, exact, keyframe = taken.values()
    ratios = {
        what: Spread.of([a[what] / b[what] for a, b in zip(exact, bare, strict=True)])
        for what in ("cpu_seconds", "wall_seconds")
    }
    keys = Spread.of([one["cpu_seconds"] for one in keyframe])
    return {
        "wanted": {"keyframe_cpu_seconds": KEYFRAME_CPU_SECONDS, "exact_over_bare": BARE_RATIO},
        "measured": {
            "minutes": minutes,
            "frames": SEEK_FRAMES,
            "keyframe_cpu_seconds": keys,
            "exact_over_bare": ratios,
            "cases": {name: spreads(runs) for name, runs in taken.items()},
        },
        "met": keys.median < KEYFRAME_CPU_SECONDS and ratios["cpu_seconds"].median <= BARE_RATIO,
    }


_ROOT = Path(__file__).resolve().parent.parent
_WAYS: Mapping[str, tuple[str, ...]] = {"as preset": (), "fps 1": ("--fps", "1")}


def questions(setup: Setup) -> dict[str, Any]:
    """A second question of one process, and the same question in a new process from the cache."""
    clip = replace(setup, minutes=(CLIP_MINUTES if setup.minutes[0] >= 1 else setup.minutes[0],))
    second = {
        name: spreads([_two(clip, *options) for _ in range(setup.repeats)])
        for name, options in _WAYS.items()
    }
    cached = {
        name: spreads([_cached(clip, turn, *options) for turn in range(setup.repeats)])
        for name, options in _WAYS.items()
    }
    return {
        "wanted": {"second": SECOND_RATIO},
        "measured": {"minutes": clip.minutes[0], "second": second, "from_cache": cached},
        "met": all(one["parts_alone"].median >= SECOND_RATIO for one in second.values()),
    }


def _two(setup: Setup, *options: str) -> dict[str, float]:
    """Two questions in one process, by the seconds that the answers give: how many times longer
    the first took, loading counted or not, and by its parts alone, without what a process imports
    and sets up on the way. Python's start is in none of them."""
    film = setup.film("busy", setup.minutes[0])
    _, (first, second) = setup.ask(film, "-q", QUESTION, "-q", OTHER, "--no-cache", *options)
    one, two = first["seconds"], second["seconds"]
    parts = sum(one[name] for name in ("decode", "encode", "reduce", "prefill", "generate"))
    return {
        "with_load": one["total"] / two["total"],
        "without_load": (one["total"] - one["load"]) / two["total"],
        "parts_alone": parts / two["total"],
        "prefill": two["prefill"] / one["prefill"],
        "first_seconds": one["total"],
        "load_seconds": one["load"],
        "second_seconds": two["total"],
        "second_generate_seconds": two["generate"],
    }


def _cached(setup: Setup, turn: int, *options: str) -> dict[str, float]:
    """The same question in three new processes: nothing kept, kept, and taken from the cache."""
    film = setup.film("busy", setup.minutes[0])
    folder = setup.folder / f"cache-{turn}-{'-'.join(options)}"
    env = {**os.environ, "TOKENREDUCE_CACHE": str(folder)}
    plain, _ = setup.ask(film, QUESTION, "--no-cache", *options)
    keeping, _ = setup.ask(film, QUESTION, *options, env=env)
    again, (answer,) = setup.ask(film, QUESTION, *options, env=env)
    if answer["frames"]["source"] != "cache":
        raise Failed(f"the second time frames came from: {answer['frames']['source']}")
    return {
        "without_cache_seconds": plain.wall_seconds,
        "keeping_seconds": keeping.wall_seconds,
        "from_cache_seconds": again.wall_seconds,
        "without_cache_cpu_seconds": plain.cpu_seconds,
        "from_cache_cpu_seconds": again.cpu_seconds,
        "saved_share": 1 - again.wall_seconds / plain.wall_seconds,
        "digest_seconds": answer["seconds"]["digest"],
        "inside_seconds": answer["seconds"]["total"],
    }
