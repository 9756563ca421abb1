"""The matrix products of the cost model against what torch itself counts on a meta device."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2Model, SiglipVisionConfig, SiglipVisionModel

from tokenreduce import cost
from tokenreduce.models.spec import TextSpec, VisionSpec

QWEN2_7B = TextSpec(28, 3584, 18944, 28, 4, 128, 152064, 32768)
SO400M = VisionSpec(26, 1152, 4304, 16, 384, 14)


def qwen2(spec: TextSpec) -> Qwen2Model:
    config = Qwen2Config(
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        vocab_size=spec.vocab,
        max_position_embeddings=spec.context,
    )
    config._attn_implementation = "eager"  # a fused kernel would hide its products
    with torch.device("meta"):
        model = Qwen2Model(config)
    return model


@pytest.mark.parametrize("tokens", [100, 1669, 6373])
def test_the_language_model(tokens: int) -> None:
    model = qwen2(QWEN2_7B)
    embeds = torch.empty(1, tokens, QWEN2_7B.width, device="meta")
    # Given, because making the mask would read values that a meta tensor does not have.
    mask = {"full_attention": torch.empty(1, 1, tokens, tokens, device="meta")}
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    ours = cost.layer_cost(QWEN2_7B, tokens) * QWEN2_7B.layers
    assert ours.matmul == pytest.approx(counted.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("frames", [1, 3])
def test_the_vision_tower_and_projector(frames: int) -> None:
    config = SiglipVisionConfig(
        hidden_size=SO400M.width,
        intermediate_size=SO400M.mlp_width,
        num_hidden_layers=SO400M.layers,
        num_attention_heads=SO400M.heads,
        image_size=SO400M.image_size,
        patch_size=SO400M.patch_size,
        vision_use_head=False,
    )
    config._attn_implementation = "eager"
    with torch.device("meta"):
        tower = SiglipVisionModel(config)
        projector = torch.nn.Sequential(
            torch.nn.Linear(SO400M.width, QWEN2_7B.width),
            torch.nn.GELU(),
            torch.nn.Linear(QWEN2_7B.width, QWEN2_7B.width),
        )
        pixels = torch.empty(frames, 3, SO400M.image_size, SO400M.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        projector(tower(pixels).last_hidden_state)
    ours = (cost.tower_cost(SO400M) + cost.projector_cost(SO400M, QWEN2_7B)) * frames
    assert ours.matmul == pytest.approx(counted.get_total_flops(), rel=0.01)
