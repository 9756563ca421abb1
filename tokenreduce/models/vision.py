"""What every family's vision tower is given, and what it gives; knows no family and no file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from tokenreduce.budget import Layout
from tokenreduce.engine.encoder import ToCount, run
from tokenreduce.engine.types import Prune
from tokenreduce.models.evidence import attention_of, shown_by
from tokenreduce.models.spec import ModelSpec
from tokenreduce.paradigm import Method
from tokenreduce.schedule import Schedule
from tokenreduce.seen import Evidence, Need
from tokenreduce.tokens import Tokens


def pixel_values(frames: Tensor, spec: ModelSpec) -> Tensor:
    """uint8 (f, S, S, 3) to float32 (f, 3, S, S): (byte / 255 - mean) / std.

    By a table of 256 values made on the CPU: the same bits on every device, where a GPU would
    multiply by reciprocals. Raises ValueError if the frames are not of the tower's size.
    """
    side = spec.vision.image_size
    if frames.dtype != torch.uint8 or frames.shape[1:] != (side, side, 3):
        raise ValueError(
            f"frames are {frames.dtype} {tuple(frames.shape)}, not uint8 (f, {side}, {side}, 3)"
        )
    tables = _tables(spec.vision.mean, spec.vision.std, frames.device)
    planes = [tables[c][frames[..., c].int()] for c in range(3)]
    return torch.stack(planes, dim=1)


@cache
def _tables(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> Tensor:
    """float32 (3, 256) on the device for good: to copy it there, the host waits for all that is in
    the queue, which would be once for every batch of frames."""
    byte = torch.arange(256, dtype=torch.float64).div(255).float()
    of_mean, of_std = (torch.tensor(part).unsqueeze(1) for part in (mean, std))
    return ((byte - of_mean) / of_std).to(device)


def batches(frames: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """The frames (f, S, S, 3) in batches of a fixed size, because float sums depend on it."""
    return torch.split(frames, batch_of(device))


def batch_of(device: torch.device) -> int:
    """Frames that go through a tower together."""
    return 4 if device.type == "cpu" else 16


@dataclass(frozen=True)
class Within:
    """One reduction between the layers of a tower: exactly `keep` patches of each frame are left.

    schedule      its shape alone counts, see `engine.encoder.ToCount`
    proportional  attention counts merged tokens by their size, as ToMe does
    frames        numbers in the video of the frames that are given; none: from 0 on
    """

    method: Method
    schedule: Schedule
    keep: int
    seed: int = 0
    proportional: bool = False
    frames: tuple[int, ...] = ()


def batches_within(
    frames: Tensor, within: Within, device: torch.device
) -> Iterator[tuple[Tensor, Within]]:
    """`batches`, each with `within` of its own frames."""
    numbers = within.frames or tuple(range(frames.shape[0]))
    start = 0
    for part in batches(frames, device):
        stop = start + part.shape[0]
        yield part, replace(within, frames=numbers[start:stop])
        start = stop


def reduce_within(
    layers: Sequence[nn.Module],
    hidden: Tensor,
    within: Within,
    needs: frozenset[Need],
    spec: ModelSpec,
) -> tuple[Tokens, Evidence]:
    """What enters the first layer, (f, classes + patches, width), through all of them.

    Gives (f, keep, width), the class token left out, places in raster order of the unpooled grid,
    and what the last layer showed of these tokens.
    """
    vision = spec.vision
    stage = Prune(within.method, ToCount(within.schedule, within.keep))
    out = run(
        layers,
        hidden,
        vision.classes,
        (stage,),
        Layout(1, vision.side, vision.side),
        attention_of,
        seed=within.seed,
        proportional=within.proportional,
        rows=torch.tensor(within.frames or range(hidden.shape[0])),
    )
    if not needs:
        return out.tokens, Evidence()
    shown = shown_by(attention_of(layers[-1], out.shown), vision.classes, needs)
    at = torch.searchsorted(out.entered.place.contiguous(), out.tokens.place.contiguous())
    return out.tokens, shown.take(at)


def joined(parts: Sequence[Tokens]) -> Tokens:
    """The rows of all parts after each other."""
    return Tokens(
        torch.cat([part.x for part in parts]),
        torch.cat([part.size for part in parts]),
        torch.cat([part.place for part in parts]),
    )
