"""Peak memory of one piece of work, in a fresh process; knows no benchmark."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence

import torch

from benchmarks.record import run_process
from tokenreduce import memory


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Most memory that a second run takes over what is there; of the device if it has one.

    The second, because what the libraries set up for these shapes stays and is not the run's.
    To be called in a fresh process: memory once freed may stay resident and hide a peak.
    Raises RuntimeError where the system tells neither.
    """
    work()
    gc.collect()
    memory.reset_device_peak(device)
    before = memory.device_peak_bytes(device)
    if before is not None:
        work()
        return (memory.device_peak_bytes(device) or 0) - before
    resident = memory.host_bytes()
    if resident is None or not memory.reset_host_peak():
        raise RuntimeError("peak memory of a CPU run can be measured on Linux only")
    work()
    return memory.host_peak_bytes() - resident


def in_fresh_process(module: str, arguments: Sequence[str]) -> int:
    """What `python -m module arguments` prints, a number. Raises RuntimeError if it fails."""
    run = run_process(
        [sys.executable, "-m", module, *arguments],
        # glibc gives freed blocks back at once instead of keeping what it likes of them resident,
        # so that the peak is of what is in use.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)},
    )
    if run.returncode != 0:
        raise RuntimeError(
            f"peak of {' '.join(arguments)}: exit {run.returncode}: {run.stderr.strip()[-2000:]}"
        )
    return int(run.stdout)
