"""What a batch of frames changes in their features: float noise, at the widths of a real tower."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

SO400M: dict[str, Any] = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
LAYERS = 3


@pytest.fixture(scope="module")
def tower() -> SiglipVisionModel:
    """Three layers of SigLIP so400m's sizes with random weights; 7 x 7 patches of 14 pixels."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        **SO400M,
        num_hidden_layers=LAYERS,
        image_size=98,
        patch_size=14,
        vision_use_head=False,
    )
    made: SiglipVisionModel = SiglipVisionModel(config).eval()
    return made


@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_features_differ_by_float_noise_alone(tower: SiglipVisionModel, batch: int) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(8, 3, 98, 98, generator=generator)
    with torch.no_grad():
        together = tower(pixels).last_hidden_state
        apart = torch.cat([tower(part).last_hidden_state for part in pixels.split(batch)])
    noise = (together - apart).norm(dim=-1) / together.norm(dim=-1)
    assert together.std() > 0.1  # there is something to compare
    assert float(noise.max()) < 1e-5
