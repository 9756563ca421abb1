"""How much of a device's memory may be used: as it was asked for, and as the device has it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch

from tokenreduce.bytesizes import parse, shown
from tokenreduce.errors import CapacityError
from tokenreduce.footprint import DRIVER_BYTES, Footprint

_SLACK = 1.03  # a prediction may be 3 % too low

LATER_BYTES = 256 << 20
"""Of what is free, kept for kernels that CUDA loads when they are first used (of cuBLAS, attention,
bitsandbytes), outside torch's allocator. An estimate (100 to 300 MiB), not measured here. From a
size of one's own `footprint.DRIVER_BYTES` is taken, of which these are a part."""


@dataclass(frozen=True)
class Allowed:
    """vram: bytes the device may have, "auto" for what is free on it, None for no limit of one's
    own. fit: budget and frames may be lowered, which counts as "auto" without a vram."""

    vram: int | Literal["auto"] | None = None
    fit: bool = False

    @classmethod
    def of(cls, vram: str | float | None, *, fit: bool) -> Allowed:
        """vram as people write it (`bytesizes.parse`). Raises SettingError."""
        return cls(None if vram is None else "auto" if vram == "auto" else parse(vram), fit)

    @property
    def anything(self) -> bool:
        return self.fit or self.vram is not None


NO_LIMIT = Allowed()


@dataclass(frozen=True)
class Room:
    """limit_bytes: what tensors may take; named: how that is called in messages."""

    limit_bytes: int
    named: str

    def holds(self, found: Footprint) -> bool:
        return self.needed_bytes(found) <= self.limit_bytes

    def needed_bytes(self, found: Footprint) -> int:
        """What it takes, and a little to spare, for a prediction may be too low."""
        return ceil(found.peak_bytes * _SLACK)


def unlimited(device: torch.device, allowed: Allowed) -> str | None:
    """A warning where a limit was asked for that is not known; None where there is none."""
    if device.type == "cuda" or isinstance(allowed.vram, int) or not allowed.anything:
        return None
    asked = "--fit" if allowed.vram is None else "--vram auto"
    return (
        f"{asked}: nothing limits the memory on {device}, so nothing is made to fit "
        "beforehand; give a size, such as --vram 8GiB"
    )


def room_on(device: torch.device, allowed: Allowed) -> Room | None:
    """What `allowed` leaves on `device`; None where nothing limits it.

    Raises CapacityError for a vram larger than the card. Without a card, a vram stands for one and
    "auto" for nothing.
    """
    vram = "auto" if allowed.vram is None and allowed.fit else allowed.vram
    if vram is None:
        return None
    if device.type != "cuda":
        return None if vram == "auto" else Room(vram, shown(vram))
    free, total = torch.cuda.mem_get_info(device)
    # What torch has reserved is ours; the driver's share is gone from what is free already.
    ours = free + torch.cuda.memory_reserved(device)
    left = max(0, ours - LATER_BYTES)
    if vram == "auto":
        return Room(left, f"{shown(left)} of the {shown(ours)} free on {device}")
    own = max(0, vram - DRIVER_BYTES)
    if vram > total:
        name = torch.cuda.get_device_name(device)
        raise CapacityError(
            f"--vram {shown(vram)}: {device} ({name}) has {shown(total)}; give at most that, or "
            "auto"
        )
    if own > left:
        free_now = f"{shown(left)} of the {shown(ours)} free on {device} (not all of {shown(vram)})"
        return Room(left, free_now)
    return Room(own, f"{shown(own)} of {shown(vram)}, the rest being the driver's,")
