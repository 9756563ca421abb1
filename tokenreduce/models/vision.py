"""What every family's vision tower is given, and what it gives; knows no family and no file."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.models.spec import ModelSpec


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
    byte = torch.arange(256, dtype=torch.float64).div(255).float()
    mean, std = (torch.tensor(part).unsqueeze(1) for part in (spec.vision.mean, spec.vision.std))
    tables = ((byte - mean) / std).to(frames.device)
    planes = [tables[c][frames[..., c].int()] for c in range(3)]
    return torch.stack(planes, dim=1)
