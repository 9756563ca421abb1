"""Peak memory of this process and of its device, and who may wait for the device or empty torch's
cache; knows nothing of what used it.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

import torch

from tokenreduce.errors import CapacityError

_MEMORY = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def host_peak_bytes() -> int:
    """Largest resident set of this process so far; 0 on a system that does not tell.

    Linux is asked for the high-water mark of this very program: what getrusage calls the peak
    starts at that of the process that launched it. macOS counts in bytes, other systems in KiB.
    """
    marked = _status_bytes("VmHWM")
    if marked is not None:
        return marked
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def host_bytes() -> int | None:
    """Resident set of this process now, or None where only its peak can be known."""
    return _status_bytes("VmRSS")


def host_free_bytes() -> int | None:
    """Of the host's memory, what processes could still take; None where it cannot be known."""
    try:
        for line in _MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def reset_host_peak() -> bool:
    """Starts the peak again from what is resident now. False where the system does not allow it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def device_peak_bytes(device: torch.device) -> int | None:
    """Most bytes of tensors on a CUDA `device` since the last reset; None on any other."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def reset_device_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@cache
def device_wide() -> AbstractContextManager[bool]:
    """One for the process: whoever records a CUDA graph, waits for a device or empties torch's
    cache holds it meanwhile, and nobody may do one of these without it.

    A wait in one thread can break what another records, whatever mode that has
    (https://github.com/NVIDIA/TensorRT/issues/2888), and torch refuses to empty its cache, which is
    that of all devices, while anything is recorded. Who waits under it makes a recording wait too,
    but for work that is in the same queue before it.
    """
    return threading.RLock()


device_wide()  # made by the one thread that imports: two at once could each make their own


def synchronise(device: torch.device) -> None:
    """Waits for this thread's work on the device, so that a clock read afterwards counts it.

    On CUDA for the current stream alone: torch has one for all threads unless told otherwise.
    """
    if device.type == "cuda":
        with device_wide():
            torch.cuda.current_stream(device).synchronize()
    elif device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize()


# Of the CPU's allocators and of MPS, which have no class of their own for it; and of cuBLAS, which
# allocates by itself and finds no place for its handle where torch's cache holds all there is.
_NO_MEMORY = (
    "not enough memory",
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)


@contextmanager
def sufficient(advice: str) -> Iterator[None]:
    """Turns running out of memory, on any device, into a CapacityError that says `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if short(error):
            raise CapacityError(advice) from error
        raise


def short(error: BaseException) -> bool:
    """Whether torch, Python or a library of the device says by it that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def ran_out(error: CapacityError) -> bool:
    """Whether it says that memory ran out, and not that there is no such device."""
    return isinstance(error.__cause__, (MemoryError, RuntimeError))


def free_device(device: torch.device) -> None:
    """Gives back what the allocator holds for later.

    Nobody records meanwhile: what ends with the garbage may ask the driver what that then refuses.
    """
    with device_wide():
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _status_bytes(name: str) -> int | None:
    """One line of Linux's account of this process, which is in KiB."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
