"""Overlap in a batch: the workers of a machine, against its steps one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.batch_parts import QUESTIONS, Setup
from benchmarks.family import cpu_seconds, family_of
from benchmarks.longvideo_runs import Failed
from benchmarks.record import Spread, rounds, spreads
from tokenreduce.batch.hands import IN_HAND
from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.batch.messages import Died, Done, Ready, Replied
from tokenreduce.batch.pool import LocalPool, devices
from tokenreduce.batch.recipe import Recipe
from tokenreduce.cache.digest import of_file
from tokenreduce.memory import host_free_bytes
from tokenreduce.models.base import Sampling
from tokenreduce.occupant import Placing
from tokenreduce.plan import Overrides

GAIN_SHARE = 0.9
_PATIENCE_SECONDS = 300.0


@dataclass
class _Crew:
    """Workers over the same tasks again and again. in_hand: tasks that each has at once; with one,
    nothing overlaps anything."""

    pool: Any
    tasks: Sequence[Any]
    in_hand: int
    warmed: bool = False

    def work(self) -> dict[str, float]:
        """Seconds until all is answered, of all their cores, and of the stages as answers tell
        them. The first time the workers are started, and what they take has no meaning."""
        waiting, stages = list(self.tasks), {"decode_seconds": 0.0, "encode_seconds": 0.0}
        in_hand = dict.fromkeys(self.pool.workers, 0 if self.warmed else self.in_hand)
        if not self.warmed:
            for worker in self.pool.workers:
                self.pool.start(worker)
        pids = [pid for pid in family_of(os.getpid()) if pid != os.getpid()]
        wall, cpu = time.perf_counter(), _seconds(pids)
        left = len(waiting)
        while left:
            while waiting and min(in_hand.values()) < self.in_hand:
                worker = min(in_hand, key=lambda name: in_hand[name])
                in_hand[worker] += 1
                self.pool.give(worker, waiting.pop(0))
            left -= self._heard(in_hand, stages)
        took = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": _seconds(pids) - cpu}
        self.warmed = True
        return took | stages

    def _heard(self, in_hand: dict[str, int], stages: dict[str, float]) -> int:
        """The next message; how many tasks it ended."""
        match self.pool.next(_PATIENCE_SECONDS):
            case Ready(worker):
                in_hand[worker] = 0
            case Done(worker):
                in_hand[worker] -= 1
                return 1
            case Replied(answer=answer) if answer is not None:
                for stage in stages:
                    stages[stage] += answer["seconds"][stage.removesuffix("_seconds")] or 0.0
            case Replied(failure=failure):
                raise Failed(f"a worker did not answer everything: {failure}")
            case Died(reason=reason):
                raise Failed(f"a worker {reason}")
            case None:
                raise Failed("the workers are silent")
        return 0


def overlap(setup: Setup) -> dict[str, Any]:
    """Wall seconds of the workers that `--workers auto` makes, once they are ready, and of one that
    does one thing after the other with as many threads as each of them.

    The least that could be is what the slower of decoding and encoding alone, or all CPU seconds on
    all cores, leaves; of the two runs' CPU seconds the fewer count. The gain is how many times as
    fast the workers are, and its share is that of what the least would be.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    recipe, tasks = _tasks(setup, setup.made(setup.clips))
    free = host_free_bytes() or 0
    names, threads = devices("cpu", "auto", cores or 1, recipe.weights_bytes, free)
    with (
        closing(LocalPool(recipe, names, threads)) as many,
        closing(LocalPool(recipe, {"cpu": "cpu"}, threads)) as one,
    ):
        crews = {"together": _Crew(many, tasks, IN_HAND), "apart": _Crew(one, tasks, 1)}
        for crew in crews.values():
            crew.work()
        taken = rounds({name: crew.work for name, crew in crews.items()}, setup.repeats)
    shares, gains, bounds = [], [], []
    for made, alone in zip(taken["together"], taken["apart"], strict=True):
        spent = min(made["cpu_seconds"], alone["cpu_seconds"])
        stages = alone["decode_seconds"], alone["encode_seconds"]
        bounds.append(max(*stages, spent / (cores or 1)))
        gains.append(alone["wall_seconds"] / made["wall_seconds"])
        shares.append(bounds[-1] / made["wall_seconds"])
    share = Spread.of(shares)
    return {
        "wanted": {"gain_share": GAIN_SHARE},
        "measured": {
            "gain_share": share,
            "gain": Spread.of(gains),
            "bound_seconds": Spread.of(bounds),
            "clips": len(tasks),
            "questions": len(QUESTIONS),
            "workers": len(names),
            "threads": threads,
            "cores": cores,
            **{name: spreads(runs) for name, runs in taken.items()},
        },
        "met": share.median >= GAIN_SHARE,
    }


def _tasks(setup: Setup, clips: Sequence[Path]) -> tuple[Recipe, list[Task]]:
    recipe = Recipe.of(
        setup.model, "balanced", Overrides(), Sampling(), Placing(device="cpu"), None, None
    )
    tasks = []
    for number, clip in enumerate(clips):
        digest = of_file(clip)
        if digest is None:
            raise Failed(f"{clip.name} cannot be read")
        asked = enumerate(QUESTIONS)
        wanted = tuple(Wanted(f"{number}-{i}", f"{number}-{i}", text) for i, text in asked)
        tasks.append(Task(number, str(clip), digest, wanted))
    return recipe, tasks


def _seconds(pids: Sequence[int]) -> float:
    """Of their cores, so far."""
    return sum(cpu_seconds(pid) or 0.0 for pid in pids)
