"""Room on disks, and what is arriving in a folder; knows neither models nor the hub's files.

Of the hub's client it knows how to keep its progress bars from being drawn.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from tokenreduce.errors import ModelError
from tokenreduce.models.saved import FOLDER_VARIABLE

PART = ".part"
"""How the names end of what this project has not finished."""
_SPARE_BYTES = 64 << 20
"""Left on a disk beyond what is counted: configurations, and what file systems keep of files."""
_POLL_SECONDS = 0.5
_ELSEWHERE = (
    f"choose another disk: HF_HUB_CACHE for downloads, {FOLDER_VARIABLE} for quantised models, or "
    "--to DIR"
)


def check_disks(name: str, needs: Sequence[tuple[Path, int]]) -> None:
    """Raises ModelError where a folder may not be written, or its disk has not the bytes needed;
    what goes to one disk counts together."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in needs:
        above = folder
        while not above.exists() and above != above.parent:
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise ModelError(f"{name}: {above} may not be written; {_ELSEWHERE}")
        disk = above.stat().st_dev
        before = disks[disk][1] if disk in disks else 0
        disks[disk] = (above, before + max(0, size))
    for above, size in disks.values():
        free = shutil.disk_usage(above).free
        if size + _SPARE_BYTES * (size > 0) > free:
            raise ModelError(
                f"{name}: needs {size / 1e9:.1f} GB in {above}, where {free / 1e9:.1f} GB are "
                f"free; make room, or {_ELSEWHERE}"
            )


@contextmanager
def arriving(folder: Path, total_bytes: int, tell: Callable[[int, int], None]) -> Iterator[None]:
    """Tells of a download by the bytes that appear in its folder, and keeps the hub's client, which
    would draw bars of its own, silent. total_bytes: 0 where it is not known."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # lazy
        disable_progress_bars,
        enable_progress_bars,
    )

    ended = Event()
    begun, before = begun_bytes(folder), bytes_in(folder)

    def look() -> None:
        while not ended.wait(_POLL_SECONDS):
            come = begun + bytes_in(folder) - before
            tell(min(total_bytes, come) if total_bytes else come, total_bytes)

    # Where a variable rules over the bars, changing them would only warn.
    rules = constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    if rules:
        disable_progress_bars()
    looking = Thread(target=look, daemon=True)
    tell(begun, total_bytes)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        if rules:
            enable_progress_bars()
    if total_bytes:
        tell(total_bytes, total_bytes)


def begun_bytes(folder: Path) -> int:
    """Bytes of files that the hub's client began there and has not finished."""
    return sum(size for name, size in _files(folder) if name.endswith(".incomplete"))


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder, 0 if there is none."""
    return sum(size for _, size in _files(folder))


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and bytes on the disk; a file that goes meanwhile is left out."""
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(where, name))
            except OSError:
                continue
            # A file may have been given its length before it has its bytes.
            yield name, min(found.st_size, getattr(found, "st_blocks", found.st_size) * 512)
