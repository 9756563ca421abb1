"""AIM's visual tokens from raw frames: resized, encoded, merged, newline woven in, all official."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenreduce.budget import Layout, Newline
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.models.load import load
from tokenreduce.reducer import Reducer
from tokenreduce.video.pixels import resized

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "aim_full" / "merge.safetensors")
KEPT = 4  # of the 16 pooled tokens of a frame, the official 25 %


def matched(found: Tensor, wanted: Tensor) -> Tensor:
    """For each of `found` the index of the official token it equals; one official token each."""
    distance = torch.cdist(found.double(), wanted.double(), p=torch.inf)
    nearest = distance.argmin(dim=1)
    assert distance.min(dim=1).values.max() < 1e-4
    assert sorted(nearest.tolist()) == list(range(len(wanted)))
    return nearest


@pytest.mark.parametrize("newline", ["one_token", "no_token"])
@pytest.mark.parametrize("case", ["F8_50x70", "F16_40x40"])
@torch.no_grad()
def test_merged_tokens_are_the_official_ones(
    make_checkpoint: Callable[[str], Path], case: str, newline: Newline
) -> None:
    model = load(str(make_checkpoint("tinyA")), device="cpu")
    side, size = model.spec.side, model.spec.vision.image_size
    raw = GOLDEN[f"{case}/frames_uint8"].numpy()
    frames = torch.from_numpy(np.stack([resized(frame, size) for frame in raw]))
    features = model.encode(frames)
    extra = int(newline == "one_token")
    reducer = Reducer(
        Layout(1, side, side, newline),
        len(raw) * KEPT + extra,
        AimMerge(),
        model.newline() if extra else None,
    )
    reducer.add(features)
    tokens = reducer.finish().x[0]
    want = GOLDEN[f"{case}/{newline}"]
    assert tokens.shape == want.shape
    for frame, official in enumerate(GOLDEN[f"{case}/pooled_merged"]):
        # A frame's tokens are ours in raster order and theirs by rank, so the frame is a set.
        matched(tokens[frame * KEPT : (frame + 1) * KEPT], official)
    matched(tokens, want)
    if extra:
        torch.testing.assert_close(tokens[-1], want[-1], rtol=0, atol=1e-5)
