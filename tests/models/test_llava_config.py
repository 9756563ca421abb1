"""What a ModelSpec makes of the published configurations (their keys; sizes as documented)."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2Config, SiglipVisionConfig

from tokenreduce.errors import ModelError
from tokenreduce.models.families import FAMILIES, family_of
from tokenreduce.models.llava_config import read_spec
from tokenreduce.models.spec import TextSpec, VisionSpec

SEVEN_B = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_hidden_size": 1152,
    "mm_vision_select_layer": -2,
    "mm_patch_merge_type": "spatial_unpad",
    "image_aspect_ratio": "anyres_max_9",
}
VIDEO = {
    **SEVEN_B,
    "add_time_instruction": True,
    "force_sample": True,
    "mm_newline_position": "grid",
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
}


def spec_of(name: str = "lmms-lab/x", config: dict[str, Any] | None = None, **changes: Any) -> Any:
    return read_spec(name, {**(VIDEO if config is None else config), **changes}, {})


def test_llava_video_7b() -> None:
    spec = spec_of()
    assert (spec.vision.layers, spec.vision.width, spec.vision.mlp_width) == (26, 1152, 4304)
    assert (spec.vision.heads, spec.vision.side, spec.vision.patches) == (16, 27, 729)
    assert (spec.text.layers, spec.text.width, spec.text.head_width) == (28, 3584, 128)
    assert (spec.text.kv_width, spec.text.vocab, spec.text.context) == (512, 152064, 32768)
    assert (spec.pool, spec.newline, spec.native_frames) == ("bilinear", "grid", 64)
    assert spec.time_text
    assert spec.toy_world is None
    # 14 rows of 14 and a newline after each: the 13,440 tokens of 64 frames.
    assert spec.layout(64).available == 13_440


def test_average_pooling_rounds_down() -> None:
    assert spec_of(mm_spatial_pool_mode="average").layout(1).available == 13 * 14


def test_the_original_onevision_has_the_same_architecture_and_other_habits() -> None:
    spec = spec_of(config=SEVEN_B)
    assert (spec.newline, spec.native_frames, spec.time_text) == ("one_token", 32, False)
    assert spec.layout(32).available == 32 * 196 + 1


def test_a_llava_video_is_known_by_its_name_where_its_keys_are_absent() -> None:
    spec = spec_of("lmms-lab/LLaVA-Video-7B-Qwen2", SEVEN_B)
    assert (spec.newline, spec.native_frames, spec.time_text) == ("grid", 64, True)


def test_what_the_checkpoint_says_wins() -> None:
    spec = spec_of(
        add_time_instruction=False,
        mm_newline_position="frame",
        mm_spatial_pool_mode="max",
        native_frames=16,
        world_version=3,
    )
    assert not spec.time_text
    assert (spec.newline, spec.pool) == ("frame", "max")
    assert (spec.native_frames, spec.toy_world) == (16, "3")


@pytest.mark.parametrize("merge", ["flat", "spatial"])
def test_no_newline_without_unpad(merge: str) -> None:
    assert spec_of(mm_patch_merge_type=merge).newline == "no_token"


def test_our_own_vision_section_counts_the_layers_in_the_file() -> None:
    vision = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "image_size": 96,
        "patch_size": 8,
    }
    spec = spec_of(vision_config=vision)
    assert (spec.vision.layers, spec.side) == (4, 6)
    assert spec.layout(1).available == 42


def test_the_transformers_layout() -> None:
    config: dict[str, Any] = {
        "model_type": "llava_onevision",
        "text_config": {**{k: SEVEN_B[k] for k in SEVEN_B if k[:2] != "mm"}, "model_type": "qwen2"},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    mean = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    spec = read_spec("x", config, mean)
    assert (spec.vision.layers, spec.text.layers, spec.newline) == (26, 28, "one_token")
    assert (spec.vision.mean, spec.vision.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert read_spec("x", config, {}).vision.mean == (0.5, 0.5, 0.5)
    with pytest.raises(ModelError, match="vision_feature_layer is -2"):
        read_spec("x", {**config, "vision_feature_layer": -2}, {})
    with pytest.raises(ModelError, match="only qwen2"):
        read_spec("x", {**config, "text_config": {"model_type": "llama"}}, {})


def test_a_section_leaves_out_what_equals_the_defaults_of_its_class() -> None:
    spec = read_spec(
        "x",
        {
            "model_type": "llava_onevision",
            "text_config": {"model_type": "qwen2", "num_hidden_layers": 2},
            "vision_config": {"image_size": 112},
        },
        {},
    )
    text, vision = Qwen2Config(num_hidden_layers=2), SiglipVisionConfig(image_size=112)
    assert spec.text == TextSpec(
        2,
        text.hidden_size,
        text.intermediate_size,
        text.num_attention_heads,
        text.num_key_value_heads or 0,
        text.hidden_size // text.num_attention_heads,
        text.vocab_size,
        text.max_position_embeddings,
    )
    assert spec.vision == VisionSpec(
        vision.num_hidden_layers,
        vision.hidden_size,
        vision.intermediate_size,
        vision.num_attention_heads,
        112,
        16,
    )


def test_every_family_says_what_it_is() -> None:
    assert family_of("x", VIDEO) is FAMILIES["llava"]
    with pytest.raises(ModelError) as caught:
        family_of("x", {"model_type": "llava_next", "text_config": {}, "vision_config": {}})
    assert all(family.title in str(caught.value) for family in FAMILIES.values())
