"""A language model's layers over several GPUs, and on into the CPU's memory; knows sizes alone.

Tower, projector, embeddings, last norm and output layer stay together on the first GPU. Layers
follow one another, so that what goes through them changes the GPU as seldom as can be. accelerate's
hooks move it, and copy a layer that is kept in the CPU's memory to the first GPU each time it is
used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import nn

from tokenreduce import memory
from tokenreduce.errors import CapacityError, SettingError
from tokenreduce.models.device_check import started, weight_bytes
from tokenreduce.models.placement import Placement
from tokenreduce.models.spec import ModelSpec

LAYERS = "model.language_model.layers"
CPU = "cpu"
_ASIDE_BYTES = 1 << 30
_ASIDE_SHARE = 8
"""Left on every GPU for activations, keys and values: an eighth of its room, or 1 GiB."""


def spread(
    placement: Placement,
    spec: ModelSpec,
    device_map: str,
    device: str = "auto",
    max_memory_bytes: int | None = None,
) -> Placement:
    """The placement with a place for each layer; as it was where one GPU has room for all, or where
    there is no GPU.

    device            as it was asked for
    max_memory_bytes  of each GPU; None is what is free on it

    Raises SettingError for another `device_map` than "auto" or one GPU and all of them at once, and
    CapacityError where the layers fit nowhere.
    """
    if device_map != "auto":
        raise SettingError(f"device_map {device_map!r}: it can be none, auto")
    if ":" in device:
        raise SettingError(
            f"device {device} is one GPU and device_map auto is all of them: give one of the two"
        )
    if placement.device.type != "cuda":
        return placement
    rooms = {f"cuda:{i}": _room(i, max_memory_bytes) for i in range(torch.cuda.device_count())}
    each, beside = _sizes(placement, spec)
    layers = shared(rooms, each, beside, spec.text.layers)
    first = torch.device("cuda:0")
    if all(where == str(first) for where in layers):
        return replace(placement, device=first)
    _check_offloaded(placement, layers, each, beside, rooms)
    return replace(placement, device=first, layers=layers)


def shared(
    rooms: Mapping[str, int], each_bytes: int, beside_bytes: int, layers: int
) -> tuple[str, ...]:
    """The device of each layer, in order.

    rooms: bytes by GPU, for weights; of the first, `beside_bytes` are taken. All on the first if
    they fit; else so that what is left of the rooms is as even as whole layers allow. What fits on
    none is CPU's, and then the first keeps room for one more layer, to which those are copied.

    >>> shared({"cuda:0": 50, "cuda:1": 50}, 10, 20, 6)
    ('cuda:0', 'cuda:0', 'cuda:1', 'cuda:1', 'cuda:1', 'cuda:1')
    >>> shared({"cuda:0": 50}, 10, 20, 4)
    ('cuda:0', 'cuda:0', 'cpu', 'cpu')
    """
    first = next(iter(rooms))
    left = {name: room - (beside_bytes if name == first else 0) for name, room in rooms.items()}
    if left[first] >= layers * each_bytes:
        return (first,) * layers
    if sum(max(0, room) // each_bytes for room in left.values()) < layers:
        left[first] -= each_bytes
    counts = dict.fromkeys(left, 0)
    for _ in range(layers):
        roomy = max(left, key=lambda name: left[name])
        if left[roomy] < each_bytes:
            break
        left[roomy] -= each_bytes
        counts[roomy] += 1
    placed = tuple(name for name, count in counts.items() for _ in range(count))
    return placed + (CPU,) * (layers - len(placed))


def device_map_of(model: nn.Module, placement: Placement) -> dict[str, str]:
    """The device of each part of a model by its name, as transformers' from_pretrained takes it.

    model: with or without weights. placement: with a device for each of its layers.
    """
    found: dict[str, str] = {}
    steps = LAYERS.split(".")
    for depth in range(len(steps)):
        above = ".".join(steps[:depth])
        part = model.get_submodule(above)
        below = [name for name, _ in part.named_children() if name != steps[depth]]
        own = [name for name, _ in part.named_parameters(recurse=False)]
        for name in [*below, *own]:
            found[f"{above}.{name}".lstrip(".")] = str(placement.device)
    return found | {f"{LAYERS}.{i}": where for i, where in enumerate(placement.layers)}


def _room(index: int, most_bytes: int | None) -> int:
    device = torch.device("cuda", index)
    with started(device):
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device)
    room = free if most_bytes is None else min(free, most_bytes)
    return room - max(_ASIDE_BYTES, room // _ASIDE_SHARE)


def _sizes(placement: Placement, spec: ModelSpec) -> tuple[int, int]:
    """Bytes of a layer, and of all beside the layers."""
    whole = weight_bytes(spec, placement.quantize, placement.dtype)
    bare = weight_bytes(
        replace(spec, text=replace(spec.text, layers=0)), placement.quantize, placement.dtype
    )
    return ceil((whole - bare) / spec.text.layers), bare


def _check_offloaded(
    placement: Placement,
    layers: Sequence[str],
    each_bytes: int,
    beside_bytes: int,
    rooms: Mapping[str, int],
) -> None:
    """Raises CapacityError for layers that cannot be kept in the CPU's memory."""
    offloaded = layers.count(CPU)
    if not offloaded:
        return
    gib = 2**30
    told = (
        f"device_map auto: {offloaded} of {len(layers)} layers of {each_bytes / gib:.2f} GiB do "
        f"not fit on {len(rooms)} GPU{'s' * (len(rooms) > 1)} with "
        f"{sum(max(0, room) for room in rooms.values()) / gib:.1f} GiB for weights"
    )
    if placement.quantize != "none":
        smaller = "" if placement.quantize == "nf4" else "set --quantize nf4, "
        raise CapacityError(
            f"{told}, and bitsandbytes keeps no {placement.quantize} layers in the CPU's memory; "
            f"{smaller}give a smaller --model, or set --quantize none, which can be kept there"
        )
    if next(iter(rooms.values())) < beside_bytes + each_bytes:
        raise CapacityError(
            f"{told}, where all but the layers takes {beside_bytes / gib:.1f}; give a smaller "
            "--model or --device cpu"
        )
    free = memory.host_free_bytes()
    if free is not None and offloaded * each_bytes > free:
        raise CapacityError(
            f"{told}, and of the CPU's memory {free / gib:.1f} GiB are free, where they take "
            f"{offloaded * each_bytes / gib:.1f}; set --quantize nf4 or give a smaller --model"
        )
