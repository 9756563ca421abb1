"""A command and the processes it starts, each one's peak memory and CPU seconds; Linux only.

`record.run_process` knows the largest process alone. Here the system is asked, many times a second,
for the high-water mark of each process, which only grows and begins anew with each program; what is
read last is at most INTERVAL_SECONDS old. Knows no benchmark.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL_SECONDS = 0.1
LOOKS_A_SCAN = 4
"""Looks at the known processes for one search for new ones, which takes much longer."""
_PROC = Path("/proc")


@dataclass(frozen=True)
class FamilyRun:
    """One command, run to its end.

    cpu_seconds     user and system, of the process and every descendant it waited for
    main_peak_bytes, child_peak_bytes   largest resident set of the process, and of the largest one
                    of its children; together at most their sum
    both_peak_bytes  the largest sum of the resident sets of all of them at one moment, as sampled.
                    Pages of files that several map, such as libraries, count in each
    child_cpu_seconds  of all children
    """

    returncode: int
    wall_seconds: float
    cpu_seconds: float
    main_peak_bytes: int
    child_peak_bytes: int
    both_peak_bytes: int
    child_cpu_seconds: float
    stdout: str
    stderr: str

    @property
    def figures(self) -> dict[str, float]:
        """What was measured, by name."""
        return {
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "child_cpu_seconds": self.child_cpu_seconds,
            "main_peak_bytes": float(self.main_peak_bytes),
            "child_peak_bytes": float(self.child_peak_bytes),
            "sum_of_peaks_bytes": float(self.main_peak_bytes + self.child_peak_bytes),
            "both_peak_bytes": float(self.both_peak_bytes),
        }


@dataclass
class _Watched:
    """What the processes have been seen to take so far, by process id."""

    peaks: dict[int, int] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)
    together: int = 0
    known: list[int] = field(default_factory=list)
    looks: int = 0

    def look(self, main: int) -> None:
        if self.looks % LOOKS_A_SCAN == 0:
            self.known = family_of(main)
        self.looks += 1
        now = 0
        for pid in self.known:
            marks = memory_bytes(pid)
            if marks is None:
                continue
            now += marks[1]
            self.peaks[pid] = max(self.peaks.get(pid, 0), marks[0])
            self.cpu[pid] = cpu_seconds(pid) or self.cpu.get(pid, 0.0)
        self.together = max(self.together, now)


def run_family(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
) -> FamilyRun:
    """Runs `command` and says what it and its children took. env replaces the environment.

    Raises subprocess.TimeoutExpired, with all of them killed, after `timeout_seconds`; OSError
    where the command cannot be started; RuntimeError where the system has no /proc.
    """
    if memory_bytes(os.getpid()) is None:
        raise RuntimeError("the memory of each process can be measured on Linux only")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        started = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
        watched = _Watched()
        try:
            used = _until_end(started, watched, timeout_seconds)
        finally:
            _kill(started)
        wall = time.monotonic() - begun
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    children = {pid for pid in watched.peaks if pid != started.pid}
    return FamilyRun(
        started.returncode,
        wall,
        used,
        watched.peaks.get(started.pid, 0),
        max((watched.peaks[pid] for pid in children), default=0),
        watched.together,
        sum(watched.cpu[pid] for pid in children),
        *texts,
    )


def _until_end(
    started: subprocess.Popen[bytes], watched: _Watched, timeout_seconds: float | None
) -> float:
    """CPU seconds of all, once the first process has ended."""
    begun = time.monotonic()
    while True:
        watched.look(started.pid)
        pid, status, used = os.wait4(started.pid, os.WNOHANG)
        if pid:
            started.returncode = os.waitstatus_to_exitcode(status)
            return used.ru_utime + used.ru_stime
        if timeout_seconds is not None and time.monotonic() - begun > timeout_seconds:
            raise subprocess.TimeoutExpired(started.args, timeout_seconds)
        time.sleep(INTERVAL_SECONDS)


def _kill(started: subprocess.Popen[bytes]) -> None:
    """Whatever ended the wait, nothing of the session outlives it."""
    if started.poll() is None:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def family_of(main: int) -> list[int]:
    """`main` and all that descends from it."""
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = [main]
    for pid in found:  # grows on the way
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory_bytes(pid: int) -> tuple[int, int] | None:
    """The largest resident set of a process so far, and that of now; None if it is not there."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmHWM:", "VmRSS:")))
    if len(found) < 2:  # it has ended, and nobody has waited for it
        return None
    most, now = (int(found[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    return most, now


def cpu_seconds(pid: int) -> float | None:
    """User and system, of one process; None if it is not there."""
    fields = _stat(pid)
    if not fields:
        return None
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def _stat(pid: int) -> list[str]:
    """The fields of a process's line after its name, which may hold anything: state, parent, ..."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return []
    return text.rpartition(")")[2].split()
