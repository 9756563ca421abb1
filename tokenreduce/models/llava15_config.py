"""Reads the config.json of LLaVA-1.5 checkpoints in transformers' layout; imports no torch.

CLIP, a two-layer MLP, Vicuna (arXiv 2310.03744): llava-hf/llava-1.5-7b-hf and -13b-hf. Knows
nothing about where a checkpoint lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenreduce.errors import ModelError
from tokenreduce.models.fields import Config, mapping, refuse_other, text_spec, vision_spec
from tokenreduce.models.saved import stored_quantize
from tokenreduce.models.spec import ModelSpec

TITLE = "LLaVA-1.5 with Vicuna (llava-hf/llava-1.5-7b-hf and the like, llava of transformers)"

# What transformers leaves out of a section: LlavaConfig's own defaults of its tower, and those of
# LlamaConfig.
_CLIP_DEFAULTS: Config = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_CLIP_OWN_DEFAULTS: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_LLAMA_DEFAULTS: Config = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
# CLIP's own, where preprocessor_config.json is missing.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_TEXT_KEYS = (
    *_LLAMA_DEFAULTS,
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)


def describes(config: Config) -> bool:
    """Whether `config` is of this family. The original layout, whose config.json calls itself
    "llava" as well and has no vision section, is not."""
    return config.get("model_type") == "llava" and "mm_vision_tower" not in config


def read_spec(name: str, config: Config, preprocessor: Config) -> ModelSpec:
    """The ModelSpec of a config.json and preprocessor_config.json ({} if there is none).

    Raises ModelError that names the key and the value where one is missing or cannot be used.
    """
    stored_quantize(config, name)
    vision, language = vision_section(name, config), text_section(name, config)
    refuse_other(name, vision, "hidden_act", ("quick_gelu", "gelu"))
    refuse_other(name, language, "hidden_act", ("silu",))
    refuse_other(name, config, "projector_hidden_act", ("gelu",))
    refuse_other(name, config, "vision_feature_select_strategy", ("default",))
    seen = vision_spec(name, vision, preprocessor, mean=_MEAN, std=_STD, classes=1)
    _check_preprocessor(name, preprocessor, seen.image_size)
    return ModelSpec(
        name=name,
        vision=seen,
        text=text_spec(name, language),
        pool="none",
        newline="no_token",
        native_frames=1,
        time_text=False,
        still="crop",
    )


def vision_section(name: str, config: Config) -> Config:
    """CLIPVisionConfig fields; num_hidden_layers counts the layers that are used.

    vision_feature_layer says where features are taken: -2, the published one, leaves the last
    layer unused. Raises ModelError for a tower that is no CLIP, or a layer that is not there.
    """
    given = config.get("vision_config")
    if given is None:
        section = dict(_CLIP_DEFAULTS)
    else:
        section = {**_CLIP_OWN_DEFAULTS, **mapping(name, "vision_config", given)}
    kind = section.get("model_type", "clip_vision_model")
    if kind != "clip_vision_model":
        raise ModelError(f"{name}: its vision tower is {kind!r}; only clip_vision_model is read")
    layers, at = section["num_hidden_layers"], config.get("vision_feature_layer", -2)
    if isinstance(layers, int):  # else it is refused with the other counts
        used = at + layers + 1 if isinstance(at, int) and at < 0 else at
        if not isinstance(used, int) or isinstance(used, bool) or not 1 <= used <= layers:
            raise ModelError(
                f"{name}: vision_feature_layer is {at!r}; one layer of {layers} is supported"
            )
        section["num_hidden_layers"] = used
    return section


def text_section(name: str, config: Config) -> Config:
    """LlamaConfig fields; keys it does not know are left out. Raises ModelError for another kind of
    language model."""
    section: Mapping[str, Any] = {
        **_LLAMA_DEFAULTS,
        **mapping(name, "text_config", config.get("text_config", {})),
    }
    kind = section.get("model_type", "llama")
    if kind != "llama":
        raise ModelError(f"{name}: its language model is {kind!r}; only llama is supported")
    found = {key: section[key] for key in _TEXT_KEYS if key in section}
    if config.get("tie_word_embeddings"):
        found["tie_word_embeddings"] = True
    return found


def _check_preprocessor(name: str, preprocessor: Config, side: int) -> None:
    """Raises ModelError unless pictures are prepared as `images.CROP` does: the shorter side to
    `side`, bicubic, and the middle square."""
    allowed: dict[str, tuple[Any, ...]] = {
        "size": ({"shortest_edge": side}, side),
        "crop_size": ({"height": side, "width": side}, side),
        "resample": (3,),
        "do_resize": (True,),
        "do_center_crop": (True,),
        "do_rescale": (True,),
        "do_normalize": (True,),
        "do_pad": (False, None),
    }
    for key, values in allowed.items():
        if key in preprocessor and preprocessor[key] not in values:
            raise ModelError(
                f"{name}: {key} in preprocessor_config.json is {preprocessor[key]!r}; supported: "
                f"{values[0]}"
            )
