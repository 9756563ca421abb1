"""NVIDIA cards and their driver, as the system tells of them; imports no torch.

So it can be asked where torch is broken, built without CUDA, or unable to start the card.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/version")
_PCI = Path("/sys/bus/pci/devices")
_NODES = Path("/dev")
_VENDOR = "0x10de"
_DISPLAYS = ("0x0300", "0x0302")  # VGA and 3D controllers, of a class of six digits
_SMI = "nvidia-smi"
SMI_SECONDS = 5.0
"""For nvidia-smi, which hangs where the driver does."""


@dataclass(frozen=True)
class User:
    """A process that computes on a card. used_bytes: of its memory, None where it is not told."""

    pid: int
    name: str
    used_bytes: int | None


def usable_card(environ: Mapping[str, str]) -> bool:
    """Whether an NVIDIA driver serves this machine and nobody hid its cards from this process."""
    if environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return _DRIVER.exists() or any(_NODES.glob("nvidia[0-9]*")) or shutil.which(_SMI) is not None


def cards_on_the_bus() -> int:
    """NVIDIA display controllers that Linux sees, with or without a driver; 0 elsewhere."""
    count = 0
    for card in _PCI.glob("*"):
        try:
            vendor, kind = (card / "vendor").read_text(), (card / "class").read_text()
        except OSError:
            continue
        count += vendor.strip() == _VENDOR and kind.startswith(_DISPLAYS)
    return count


def driver_version() -> str | None:
    """Such as 550.54.15; None where there is no driver, or it does not tell."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _DRIVER.read_text())
    except OSError:
        found = None
    if found:
        return found[1]
    rows = _asked("--query-gpu=driver_version")
    return rows[0][0] if rows else None


def driver_cuda() -> str | None:
    """The newest CUDA that the driver serves, such as 12.4; None where it is not told."""
    text = _printed([])
    found = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", text or "")
    return found[1] if found else None


def users(card: str) -> tuple[User, ...] | None:
    """Processes that compute on the card of this UUID (GPU-...); None where it cannot be told.

    In a container the driver tells of no process, or of none outside.
    """
    rows = _asked("--query-compute-apps=pid,used_memory,process_name", f"--id={card}")
    if rows is None:
        return None
    found = []
    for row in rows:
        if len(row) >= 3 and row[0].isdecimal():
            used = int(row[1]) << 20 if row[1].isdecimal() else None
            found.append(User(int(row[0]), ", ".join(row[2:]), used))
    return tuple(found)


def _asked(*query: str) -> list[list[str]] | None:
    """The rows of a query; None if it failed."""
    text = _printed([*query, "--format=csv,noheader,nounits"])
    if text is None:
        return None
    return [[cell.strip() for cell in row.split(",")] for row in text.splitlines() if row.strip()]


def _printed(arguments: Sequence[str]) -> str | None:
    program = shutil.which(_SMI)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SMI_SECONDS,
            check=True,
            creationflags=0x08000000 if sys.platform == "win32" else 0,  # no window
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
