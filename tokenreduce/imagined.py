"""Where a run would be, on a card that need not be here, and what there would be to fit into.

From sizes and names alone. Knows no file and no preset, and starts no device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from tokenreduce.bytesizes import shown
from tokenreduce.errors import CapacityError, SettingError
from tokenreduce.footprint import DRIVER_BYTES
from tokenreduce.models.device_check import available
from tokenreduce.models.load import as_stored
from tokenreduce.models.placement import Placement, choose_device, choose_dtype
from tokenreduce.models.quantize import choose
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.spread import spread
from tokenreduce.room import Allowed, Room, room_on


def placed_for(
    spec: ModelSpec,
    device: str,
    dtype: str,
    quantize: str,
    vram: int | None,
    device_map: str = "none",
) -> Placement:
    """Where a run would be. A size of memory, on a machine without a card and with no device named,
    stands for a card of that size. Raises SettingError or CapacityError as `placement.place` and
    `spread.spread`, and SettingError for layers that would be spread."""
    wanted = (device == "auto" and vram is not None) or device.startswith("cuda")
    assumed = wanted and not available()
    where = torch.device("cuda") if assumed else choose_device(device)
    placed = Placement(where, choose_dtype(dtype, where), choose(quantize, spec.text, where))
    if device_map == "none":
        return placed
    if not assumed:
        placed = spread(placed, spec, device_map, device, vram)
    if assumed or placed.layers:
        raise SettingError(
            "--device-map auto: what each device takes of layers that are spread is not foreseen; "
            "set --device-map none to plan for one device"
        )
    return placed


def is_here(where: Placement) -> bool:
    """Whether this machine has the device; else it is only planned for."""
    return where.device.type != "cuda" or available()


def in_nf4(where: Placement, spec: ModelSpec, name: str, revision: str | None) -> Placement | None:
    """The same with the language model in NF4; None where it is already, or cannot be: of weights
    that are stored otherwise, without bitsandbytes, or on another device than CUDA and the CPU."""
    if where.quantize == "nf4" or where.device.type not in ("cuda", "cpu"):
        return None
    try:
        kind = choose(as_stored(name, "nf4", revision), spec.text, where.device)
    except SettingError:
        return None
    return replace(where, quantize=kind)


def room_for(where: Placement, vram: int | Literal["auto"] | None) -> Room | None:
    """What there is to fit into: of the size that was named, be there such a card or not, else of
    the card that is here. None without either. Raises CapacityError for "auto" without a card."""
    if isinstance(vram, int):
        taken = DRIVER_BYTES if where.device.type == "cuda" else 0
        return Room(vram - taken, shown(vram))
    if where.device.type == "cuda" and available():
        return room_on(where.device, Allowed("auto"))
    if vram == "auto":
        why = "there is no card here"
        if where.device.type != "cuda":
            why = f"nothing limits the memory on {where.device}"
        raise CapacityError(f"--vram auto: {why}; give a size such as 12GiB")
    return None
