"""A worker process: reads its recipe and tasks from one pipe, tells of its work on another.

Started by `pool`. Ignores Ctrl-C, for the driver decides what that means, and ends with the driver.
Knows neither the ledger nor other workers.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal

from tokenreduce.batch.child import private_pipes
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.messages import Died, Message, Ready
from tokenreduce.batch.wire import receive, send

if TYPE_CHECKING:  # the driver's process, which writes a Setup, needs no torch
    from tokenreduce.batch.desk import Inbox
    from tokenreduce.batch.recipe import Recipe

Order = Task | Literal["stop"]


@dataclass(frozen=True)
class Setup:
    """The first thing a worker is told. threads: of the CPU that it may use, None for all."""

    worker: str
    recipe: Recipe
    threads: int | None = None


class PipeInbox:
    """Tasks as they come through the pipe. A pipe that closes ends the process: its driver is gone,
    and nobody would hear of what it does."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def get(self, *, block: bool) -> Task | None:
        try:
            return self._tasks.get(block=block)
        except queue.Empty:
            return None

    def _read(self) -> None:
        try:
            while True:
                order: Order = receive(self._pipe)
                if order == "stop":
                    self._stopping.set()
                    self._tasks.put(None)
                else:
                    self._tasks.put(order)
        except (EOFError, OSError):
            os._exit(1)


def main() -> None:
    """Works until it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    orders, out = private_pipes()
    lock = threading.Lock()

    def tell(message: Message) -> None:
        with lock:
            send(out, message)

    setup: Setup = receive(orders)
    serve(setup, PipeInbox(orders), tell)
    os._exit(0)  # nothing is left to tidy, and a library's thread must not keep it


def serve(setup: Setup, inbox: Inbox, tell: Callable[[Message], None]) -> None:
    """Loads the model and works through the inbox. A model that cannot be loaded is told as Died,
    refused: the driver's user can mend it, and no other worker would fare better."""
    from tokenreduce.batch.desk import Desk, one_line
    from tokenreduce.errors import TokenReduceError
    from tokenreduce.memory import sufficient
    from tokenreduce.models.device_check import slow_attention
    from tokenreduce.models.load import load
    from tokenreduce.room import unlimited

    if setup.threads is not None:
        import torch

        torch.set_num_threads(setup.threads)
    began, placing = time.perf_counter(), setup.recipe.placing
    vram = setup.recipe.allowed.vram
    try:
        with sufficient("the device's memory does not suffice for the model: try --quantize nf4"):
            model = load(
                setup.recipe.model,
                device=placing.device,
                dtype=placing.dtype,
                quantize=placing.quantize,
                revision=placing.revision,
                offline=placing.offline,
                device_map=placing.device_map,
                max_memory_bytes=vram if isinstance(vram, int) else None,
            )
    except TokenReduceError as error:
        tell(Died(setup.worker, one_line(error), type(error).__name__))
        return
    notes = (
        slow_attention(model.device, model.dtype),
        unlimited(model.device, setup.recipe.allowed),
    )
    told = tuple(note for note in notes if note is not None)
    tell(Ready(setup.worker, str(model.device), time.perf_counter() - began, told=told))
    with Desk(setup.recipe, model, setup.worker, inbox, tell) as desk:
        desk.work()
