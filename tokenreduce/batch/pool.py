"""The workers of one machine: started, given tasks, listened to, ended; knows no ledger.

A pool only reports that a worker died; what that means, and whether another is started in its
place, its user decides.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tokenreduce.batch.child import Child
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.messages import Died, Message
from tokenreduce.batch.worker import Setup

if TYPE_CHECKING:  # the driver's process needs no torch
    from tokenreduce.batch.recipe import Recipe

_ENVIRON = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Pool(Protocol):
    """Workers, wherever they are."""

    @property
    def workers(self) -> tuple[str, ...]: ...

    def start(self, worker: str) -> None:
        """Starts it, or another in its place. It says Ready, or Died."""
        ...

    def give(self, worker: str, task: Task) -> None:
        """One that is dead does not take it: its Died is on the way."""
        ...

    def stop(self, worker: str) -> None:
        """After the row in hand, it ends. It says Died then."""
        ...

    def kill(self, worker: str, reason: str) -> None:
        """At once. It says Died, with this reason."""
        ...

    def next(self, timeout_seconds: float) -> Message | None:
        """What any of them told; None after the timeout."""
        ...

    def close(self) -> None:
        """Ends all of them at once."""
        ...


@dataclass
class _Process:
    child: Child
    reason: str | None = None


class LocalPool:
    """One process for each device.

    devices  by worker's name, such as {"cuda:0": "cuda:0"}; threads: of the CPU for each, None for
             all of them
    """

    def __init__(
        self, recipe: Recipe, devices: Mapping[str, str], threads: int | None = None
    ) -> None:
        self._recipe = recipe
        self._devices = dict(devices)
        self._threads = threads
        self._told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._running: dict[str, _Process] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._devices)

    def start(self, worker: str) -> None:
        process = self._running[worker] = _Process(Child("tokenreduce.batch.worker", _ENVIRON))
        threading.Thread(target=self._listen, args=(worker, process), daemon=True).start()
        setup = Setup(worker, self._recipe.on(self._devices[worker]), self._threads)
        self._order(worker, setup)

    def give(self, worker: str, task: Task) -> None:
        self._order(worker, task)

    def stop(self, worker: str) -> None:
        self._order(worker, "stop")

    def kill(self, worker: str, reason: str) -> None:
        process = self._running.get(worker)
        if process is not None:
            process.reason = process.reason or reason
            process.child.kill()

    def next(self, timeout_seconds: float) -> Message | None:
        try:
            return self._told.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        for process in self._running.values():
            process.child.kill()
        for process in self._running.values():
            process.child.close()
        self._running.clear()

    def _order(self, worker: str, order: object) -> None:
        process = self._running.get(worker)
        if process is not None:
            process.child.send(order)

    def _listen(self, worker: str, process: _Process) -> None:
        """In a thread of its own, until the worker's pipe ends; then says how it died."""
        said_why = False
        with suppress(EOFError, OSError, ValueError):
            while True:
                message: Message = process.child.receive()
                said_why = said_why or isinstance(message, Died)
                self._told.put(message)
        ending = process.child.ending()
        if not said_why:
            self._told.put(Died(worker, process.reason or ending))


MOST_ON_CPU = 4
"""Workers on a CPU, where nothing else is said: beyond that, memory goes faster than time."""

_WORKER_BYTES = 1 << 30
"""Of a worker on a CPU beside the weights: libraries, a few clips' frames and features."""


def devices(
    asked: str, workers: str | int, cores: int, weights_bytes: int = 0, free_bytes: int = 0
) -> tuple[dict[str, str], int | None]:
    """The workers' names and devices, and how many threads of the CPU each has.

    asked: the device setting; workers: "auto" is one for each GPU, on a CPU `fitting`, else one.
    Numbers beyond the GPUs share them in turn, as does whatever is asked of one named device.
    weights_bytes: of the checkpoint's files; free_bytes: of the host's memory.
    """
    import torch

    gpus: Sequence[str] = ()
    if asked in ("auto", "cuda") and torch.cuda.is_available():
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    among = list(gpus) or [asked]
    on_cpu = asked == "cpu" or (
        asked == "auto" and not gpus and not torch.backends.mps.is_available()
    )
    alone = fitting(cores, weights_bytes, free_bytes) if on_cpu else len(among)
    count = alone if workers == "auto" else int(workers)
    names: dict[str, str] = {}
    for index in range(count):
        device = among[index % len(among)]
        name = device if device != "auto" else "cpu"
        round_ = index // len(among)
        names[name if count <= len(among) else f"{name}/{round_ + 1}"] = device
    return names, None if gpus or count == 1 else max(1, cores // count)


def fitting(cores: int, weights_bytes: int, free_bytes: int) -> int:
    """Workers on a CPU: one process cannot keep several cores busy with a small model, for one
    thread at a time runs Python. As many as there are cores, up to MOST_ON_CPU, and as half of the
    free memory holds, at least one."""
    each = 2 * weights_bytes + _WORKER_BYTES  # stored in half, computed in single precision
    return max(1, min(cores, MOST_ON_CPU, free_bytes // 2 // each))
