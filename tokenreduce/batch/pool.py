"""The workers of one machine: started, given tasks, listened to, ended; knows no ledger.

A pool only reports that a worker died; what that means, and whether another is started in its
place, its user decides.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol, cast

from tokenreduce.batch.jobs import Task
from tokenreduce.batch.messages import Died, Message
from tokenreduce.batch.wire import receive, send
from tokenreduce.batch.worker import Setup

if TYPE_CHECKING:  # the driver's process needs no torch
    from tokenreduce.batch.recipe import Recipe

# -P keeps the working directory, which may hold anything, off the import path; the package's own
# folder comes last, where it cannot shadow a thing.
_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); from tokenreduce.batch.worker import main; "
    "main()"
)
_TAIL_BYTES = 64 << 10
EXIT_SECONDS = 5.0
"""For a worker that said its last to end by itself."""


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
    popen: subprocess.Popen[bytes]
    log: IO[bytes]
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
        log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`, with its process
        popen = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(Path(__file__).resolve().parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | os.environ,
            start_new_session=True,  # Ctrl-C on the terminal is for the driver alone
        )
        process = self._running[worker] = _Process(popen, log)
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
            process.popen.kill()

    def next(self, timeout_seconds: float) -> Message | None:
        try:
            return self._told.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        for process in self._running.values():
            process.popen.kill()
        for process in self._running.values():
            process.popen.wait()
            for pipe in (process.popen.stdin, process.popen.stdout, process.log):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self._running.clear()

    def _order(self, worker: str, order: object) -> None:
        process = self._running.get(worker)
        if process is not None:
            with suppress(OSError, ValueError):
                send(cast(BinaryIO, process.popen.stdin), order)

    def _listen(self, worker: str, process: _Process) -> None:
        """In a thread of its own, until the worker's pipe ends; then says how it died."""
        said_why = False
        with suppress(EOFError, OSError, ValueError):
            while True:
                message: Message = receive(cast(BinaryIO, process.popen.stdout))
                said_why = said_why or isinstance(message, Died)
                self._told.put(message)
        code = _ended(process.popen)
        if not said_why:
            self._told.put(Died(worker, process.reason or _how(code, _tail(process.log))))


def devices(asked: str, workers: str | int, cores: int) -> tuple[dict[str, str], int | None]:
    """The workers' names and devices, and how many threads of the CPU each has.

    asked: the device setting; workers: "auto" is one for each GPU, else one. Numbers beyond the
    GPUs share them in turn, as does whatever is asked of one named device.
    """
    import torch

    gpus: Sequence[str] = ()
    if asked in ("auto", "cuda") and torch.cuda.is_available():
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    among = list(gpus) or [asked]
    count = len(among) if workers == "auto" else int(workers)
    names: dict[str, str] = {}
    for index in range(count):
        device = among[index % len(among)]
        name = device if device != "auto" else "cpu"
        round_ = index // len(among)
        names[name if count <= len(among) else f"{name}/{round_ + 1}"] = device
    return names, None if gpus or count == 1 else max(1, cores // count)


def _ended(popen: subprocess.Popen[bytes]) -> int:
    with suppress(subprocess.TimeoutExpired):
        return popen.wait(EXIT_SECONDS)
    popen.kill()
    return popen.wait()


def _tail(log: IO[bytes]) -> str:
    """The last thing the worker printed that says something: of an exception, its last line."""
    try:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    except (OSError, ValueError):
        return ""
    said = [line.strip() for line in lines if line.strip() and not line.startswith((" ", "\t"))]
    errors = [line for line in said if "Error" in line or line.startswith("Fatal Python error")]
    return (errors or said or [""])[-1][:300]


def _how(code: int, printed: str) -> str:
    said = f": {printed}" if printed else ""
    if code == -signal.SIGKILL:
        return "was killed, perhaps for lack of memory"
    if code < 0:
        return f"crashed ({signal.Signals(-code).name}){said}"
    return f"ended unexpectedly (exit status {code}){said}"
