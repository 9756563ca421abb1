"""Overlap in a batch: one worker's desk against decoding alone and the rest alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.batch_parts import QUESTIONS, Setup
from benchmarks.family import cpu_seconds
from benchmarks.longvideo_runs import Failed
from benchmarks.record import Spread, rounds, spreads

GAIN_SHARE = 0.9


@dataclass
class _Replayed:
    """Stands where a desk's decoder does: what a real one gives once, after that from memory.
    Keeps the orders, so that decoding can be run alone."""

    child: Any
    probes: dict[str, Any]
    items: dict[str, list[Any]]
    orders: dict[str, tuple[Any, ...]]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def probe(self, path: Any) -> Any:
        name = os.fspath(path)
        with self.lock:  # a desk prepares several files at once, and the child serves one
            if name not in self.probes:
                self.probes[name] = self.child.probe(path)
        return self.probes[name]

    def stream(self, path: Any, *order: Any) -> Iterator[Any]:
        name = os.fspath(path)
        with self.lock:
            if name not in self.items:
                self.orders[name] = order
                self.items[name] = list(self.child.stream(path, *order))
        yield from self.items[name]

    def close(self) -> None:
        """The child is whoever's made it."""


@dataclass
class _Inbox:
    """All tasks at once."""

    tasks: list[Any]
    stopping: bool = False

    def get(self, *, block: bool) -> Any:
        return self.tasks.pop(0) if self.tasks else None


@dataclass
class _Bench:
    """A desk over the same tasks again and again."""

    setup: Setup
    clips: Sequence[Path]
    children: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        from tokenreduce.batch.jobs import Task, Wanted
        from tokenreduce.batch.recipe import Recipe
        from tokenreduce.cache.digest import of_file
        from tokenreduce.models.base import Sampling
        from tokenreduce.models.load import load
        from tokenreduce.plan import Overrides
        from tokenreduce.session import Placing

        placing, model = Placing(), self.setup.model
        self.recipe = Recipe.of(model, "balanced", Overrides(), Sampling(), placing, None, None)
        self.model = load(model)
        self.tasks = []
        for number, clip in enumerate(self.clips):
            digest = of_file(clip)
            if digest is None:
                raise Failed(f"{clip.name} cannot be read")
            wanted = (Wanted(str(number), str(number), QUESTIONS[0]),)
            self.tasks.append(Task(number, str(clip), digest, wanted))

    def work(self, decoder: Callable[[], Any]) -> None:
        from tokenreduce.batch.desk import Desk
        from tokenreduce.batch.messages import Message, Replied

        told: list[Message] = []
        inbox = _Inbox(list(self.tasks))
        with Desk(self.recipe, self.model, "here", inbox, told.append, decoder) as desk:
            desk.work()
        answers = [one for one in told if isinstance(one, Replied)]
        if len(answers) != len(self.tasks) or any(one.failure for one in answers):
            raise Failed("a desk did not answer everything")


def overlap(setup: Setup) -> dict[str, Any]:
    """Wall seconds of a desk that prepares the next clip while it answers, of decoding alone, and
    of the rest alone (the frames from memory). The gain is what is saved of the sum of the two; the
    most that could be is what the slower one, or all CPU seconds on all cores, leaves."""
    from tokenreduce.batch.desk import AHEAD
    from tokenreduce.video.decoder import Decoder

    bench = _Bench(setup, setup.made(setup.clips))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ExitStack() as held:
        children = [held.enter_context(Decoder()) for _ in range(AHEAD + 1)]
        first = children[0]
        probes, items, orders = {}, {}, {}  # type: ignore[var-annotated]  # by path
        replayed = _Replayed(first, probes, items, orders)
        bench.work(lambda: replayed)  # the frames to hand over, and whatever is set up once
        for child in children:
            child.probe(bench.clips[0])  # so that all are there

        def decode() -> None:
            for path, order in orders.items():
                list(first.stream(path, *order))

        lent: list[Any] = []

        def both() -> None:
            lent[:] = [_Lent(child) for child in children]
            bench.work(lent.pop)

        cases: dict[str, Callable[[], object]] = {
            "both": both,
            "decode": decode,
            "rest": partial(bench.work, lambda: replayed),
        }
        pids = [cast(int, child.pid) for child in children]
        taken = rounds(
            {name: partial(_timed, pids, case) for name, case in cases.items()}, setup.repeats
        )
    shares, bounds = [], []
    for made, alone, rest in zip(*taken.values(), strict=True):
        apart = alone["wall_seconds"] + rest["wall_seconds"]
        least = max(alone["wall_seconds"], rest["wall_seconds"], made["cpu_seconds"] / (cores or 1))
        bounds.append(least)
        shares.append((apart - made["wall_seconds"]) / (apart - least))
    share = Spread.of(shares)
    return {
        "wanted": {"gain_share": GAIN_SHARE},
        "measured": {
            "gain_share": share,
            "bound_seconds": Spread.of(bounds),
            "cores": cores,
            **{name: spreads(runs) for name, runs in taken.items()},
        },
        "met": share.median >= GAIN_SHARE,
    }


@dataclass(frozen=True)
class _Lent:
    """A decoder that a desk may not close."""

    child: Any

    def probe(self, path: Any) -> Any:
        return self.child.probe(path)

    def stream(self, *order: Any) -> Iterator[Any]:
        yield from self.child.stream(*order)

    def close(self) -> None:
        """Nothing."""


def _timed(pids: Sequence[int], case: Callable[[], object]) -> dict[str, float]:
    """Wall seconds, and CPU seconds of this process and of the decoding children."""

    def children() -> float:
        return sum(cpu_seconds(pid) or 0.0 for pid in pids)

    before, wall, own = children(), time.perf_counter(), time.process_time()
    case()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return {"wall_seconds": wall, "cpu_seconds": own + children() - before}
