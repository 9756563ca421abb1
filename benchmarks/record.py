"""Measures, and writes down what was measured, where and on which commit; knows no benchmark.

A benchmark is `python -m benchmarks.NAME` from the repository root. Its result is one JSON file,
`benchmarks/results/NAME.json`: {"name", "date", "commit", "arguments", "machine", "result"}.
Machine facts name hardware and versions, never a host, a user or a path.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "bitsandbytes", "av", "decord", "numpy")

# Runs the command that follows it and writes what it took to the file descriptor it is given.
# It stands between because Linux starts a child's peak at its parent's: a parent that has
# imported torch would lend every command some 500 MB. Isolated and without site, it has 10 MB.
_LAUNCHER = """
import json, os, sys, time
report, command = int(sys.argv[1]), sys.argv[2:]
started = time.monotonic()
closed = [(os.POSIX_SPAWN_CLOSE, report)]
pid = os.posix_spawnp(command[0], command, os.environ, file_actions=closed)
_, status, used = os.wait4(pid, 0)
facts = {"wall_seconds": time.monotonic() - started,
         "cpu_seconds": used.ru_utime + used.ru_stime,
         "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
         "returncode": os.waitstatus_to_exitcode(status)}
os.write(report, json.dumps(facts).encode())
"""


@dataclass(frozen=True)
class ProcessRun:
    """One command, run to its end in a process of its own.

    cpu_seconds  user and system, of the process and every descendant it waited for
    peak_bytes   the largest resident set any one of these processes had; not their sum
    """

    returncode: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Spread:
    """Middle and ends of repeated measurements of one quantity."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError if there are no values."""
        if not values:
            raise ValueError("a spread needs at least one measurement")
        return cls(statistics.median(values), min(values), max(values), len(values))


def run_process(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float | None = None,
) -> ProcessRun:
    """Runs `command` and says what it took. env replaces the whole environment where given.

    Raises subprocess.TimeoutExpired, with the command killed, after `timeout_seconds`; OSError
    or RuntimeError where the command cannot be started.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        reader, writer = os.pipe()
        try:
            launched = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writer), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                pass_fds=[writer],
                start_new_session=True,
            )
        finally:
            os.close(writer)
        with os.fdopen(reader, "rb") as report:
            try:
                launched.wait(timeout_seconds)
            except subprocess.TimeoutExpired as late:
                raise subprocess.TimeoutExpired(list(command), late.timeout) from None
            finally:
                _kill(launched)
            written = report.read()
        texts = [_all_of(stream) for stream in (out, err)]
    if not written:
        raise RuntimeError(
            f"{command[0]}: could not be started: {texts[1].strip().rpartition(chr(10))[2]}"
        )
    return ProcessRun(**json.loads(written), stdout=texts[0], stderr=texts[1])


def _kill(launched: subprocess.Popen[bytes]) -> None:
    """Whatever ended the wait, nothing of the launcher's session outlives it."""
    if launched.poll() is None:
        os.killpg(launched.pid, signal.SIGKILL)
        launched.wait()


def _all_of(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read().decode(errors="replace"))


def rounds(
    cases: Mapping[str, Callable[[], Mapping[str, float]]], repeats: int
) -> dict[str, list[Mapping[str, float]]]:
    """Every case once a round, `repeats` rounds, so that a drift of the machine hits all alike.

    A case returns its measured quantities by name; sample i of every case is of round i. The order
    is turned round every other round.
    """
    samples: dict[str, list[Mapping[str, float]]] = {name: [] for name in cases}
    for turn in range(repeats):
        for name in list(cases)[:: 1 if turn % 2 == 0 else -1]:
            samples[name].append(cases[name]())
    return samples


def alternating(
    cases: Mapping[str, Callable[[], Mapping[str, float]]], repeats: int
) -> dict[str, dict[str, Spread]]:
    """The spread of every quantity over `rounds`."""
    return {name: spreads(taken) for name, taken in rounds(cases, repeats).items()}


def spreads(samples: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of each quantity over samples that all hold the same names."""
    return {name: Spread.of([sample[name] for sample in samples]) for name in samples[0]}


def commit() -> str:
    """`git describe --always`, "-dirty" appended if anything tracked but a result differs."""
    try:
        name = _git("describe", "--always")
        changed = _git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Hardware and versions. Imports torch, so call it after anything small was measured."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if cuda else None,
        "cuda_memory_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def where() -> dict[str, str]:
    """Of one section of a result, since sections may be of different days."""
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": commit()}


def merged(name: str, found: Mapping[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """The sections written before, with those `found` in their place, in this order."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text())["result"] if path.exists() else {}
    every = {**before, **found}
    return {section: every[section] for section in order if section in every}


def write(name: str, result: Any, arguments: Mapping[str, Any] | None = None) -> Path:
    """Writes results/`name`.json: `result` with machine, commit, date and `arguments`.

    result: what json can hold, dataclasses included.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {
        "name": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "arguments": dict(arguments or {}),
        "machine": machine(),
        "result": result,
    }
    path.write_text(json.dumps(record, indent=2, default=asdict) + "\n")
    return path
