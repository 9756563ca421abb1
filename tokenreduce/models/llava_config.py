"""Reads the config.json of LLaVA-Video and LLaVA-OneVision checkpoints; imports no torch.

Two layouts hold the same architecture (SigLIP, two-layer MLP, Qwen2): the original one of the
LLaVA-NeXT code, whose config.json has no vision section, and that of transformers. Knows nothing
about where a checkpoint lies.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from tokenreduce.budget import Newline
from tokenreduce.errors import ModelError
from tokenreduce.models.fields import (
    Config,
    count,
    mapping,
    refuse_other,
    text_spec,
    vision_spec,
)
from tokenreduce.models.saved import stored_quantize
from tokenreduce.models.spec import ModelSpec, Tiling

Format = Literal["original", "transformers"]

TITLE = (
    "LLaVA-Video and LLaVA-OneVision with Qwen2 "
    "(LlavaQwenForCausalLM, or llava_onevision of transformers)"
)

# google/siglip-so400m-patch14-384 without its last layer, which upstream deletes: the original
# config.json names the tower and gives no sizes.
_SO400M: Config = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
# transformers leaves out of a section what equals its class's defaults.
_SIGLIP_DEFAULTS: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
_QWEN2_DEFAULTS: Config = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
_TOWER = "siglip-so400m-patch14-384"
_POOLS = ("bilinear", "average", "max")
# Keys that only the training of LLaVA-Video writes; LLaVA-OneVision has the same architecture.
_VIDEO_KEYS = ("add_time_instruction", "mm_newline_position", "force_sample", "faster_token_stride")
_MOST_TILES = 16  # along one side; the published checkpoints go to 6
_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "tie_word_embeddings",
)


def describes(config: Config) -> bool:
    """Whether `config` is of this family, in either layout."""
    return format_of(config) is not None


def format_of(config: Config) -> Format | None:
    """The layout of the checkpoint, or None if it is of another family."""
    if config.get("model_type") == "llava_onevision":
        return "transformers"
    # Older files of the original layout call themselves "qwen2" or "llava_qwen", newer "llava".
    if "mm_vision_tower" in config and "LlavaQwenForCausalLM" in (
        config.get("architectures") or ()
    ):
        return "original"
    return None


def read_spec(name: str, config: Config, preprocessor: Config) -> ModelSpec:
    """The ModelSpec of a config.json and, for the transformers layout, preprocessor_config.json.

    Raises ModelError that names the key and the value where one is missing or cannot be used.
    """
    stored_quantize(config, name)
    vision, language = vision_section(name, config), text_section(name, config)
    refuse_other(name, vision, "model_type", ("siglip_vision_model",))
    refuse_other(name, vision, "hidden_act", ("gelu_pytorch_tanh",))
    refuse_other(name, language, "hidden_act", ("silu",))
    refuse_other(name, language, "use_sliding_window", (False, None))
    refuse_other(name, config, "projector_hidden_act", ("gelu",))
    text = text_spec(name, language)
    if format_of(config) == "transformers":
        refuse_other(name, config, "vision_feature_layer", (-1, vision.get("num_hidden_layers")))
        refuse_other(name, config, "vision_feature_select_strategy", ("full",))
        seen = vision_spec(name, vision, preprocessor)
        return ModelSpec(
            name=name,
            vision=seen,
            text=text,
            pool="bilinear",
            newline="one_token",
            native_frames=count(name, config, "native_frames", 32),
            time_text=False,
            still="tiles",
            tiling=_tiling(name, config, seen.image_size),
        )
    video = any(key in config for key in _VIDEO_KEYS) or "llava-video" in name.lower()
    refuse_other(name, config, "mm_projector_type", ("mlp2x_gelu",))
    refuse_other(name, config, "mm_resampler_type", (None,))
    refuse_other(name, config, "mm_use_im_start_end", (False,))
    refuse_other(name, config, "mm_spatial_pool_mode", _POOLS)
    version = config.get("world_version")
    return ModelSpec(
        name=name,
        vision=vision_spec(name, vision, {}),
        text=text,
        pool=config.get("mm_spatial_pool_mode", "bilinear"),
        newline=_newline(name, config, video),
        native_frames=count(name, config, "native_frames", 64 if video else 32),
        time_text=bool(config.get("add_time_instruction", video)),
        toy_world=None if version is None else str(version),
    )


def vision_section(name: str, config: Config) -> Config:
    """SiglipVisionConfig fields; num_hidden_layers counts the layers that are used.

    The original layout has none: the tower's name stands for its sizes. Our own checkpoints of
    that layout add `vision_config`. Raises ModelError for a tower that is neither.
    """
    section = config.get("vision_config")
    if format_of(config) == "transformers":
        if section is None:
            return _SO400M
        return {**_SIGLIP_DEFAULTS, **mapping(name, "vision_config", section)}
    if section is not None:
        return mapping(name, "vision_config", section)
    tower = str(config.get("mm_vision_tower"))
    if _TOWER not in tower:
        raise ModelError(
            f"{name}: mm_vision_tower is {tower!r}; only {_TOWER} is known without a vision_config"
        )
    return _SO400M


def text_section(name: str, config: Config) -> Config:
    """Qwen2Config fields, wherever the layout keeps them; keys it does not know are left out."""
    section: Config = config
    if format_of(config) == "transformers":
        section = mapping(name, "text_config", config.get("text_config"))
        section = {**_QWEN2_DEFAULTS, **section}
        kind = section.get("model_type", "qwen2")
        if kind != "qwen2":
            raise ModelError(f"{name}: its language model is {kind!r}; only qwen2 is supported")
    found = {key: section[key] for key in _TEXT_KEYS if key in section}
    if config.get("tie_word_embeddings"):
        found["tie_word_embeddings"] = True
    return found


def _tiling(name: str, config: Config, tile: int) -> Tiling:
    """Of transformers' layout. Raises ModelError for resolutions that whole tiles do not fill."""
    named = config.get("vision_aspect_ratio", "anyres_max_9")
    match = re.fullmatch(r"anyres_max_([1-9]\d?)", str(named))
    if match is None:
        raise ModelError(f"{name}: vision_aspect_ratio is {named!r}; supported: anyres_max_<tiles>")
    given = config.get("image_grid_pinpoints")
    if given is None or given == _usual(384):  # transformers writes its default for any tower
        given = _usual(tile)
    try:
        resolutions = tuple((int(high), int(wide)) for high, wide in given)
    except (TypeError, ValueError):
        resolutions = ()
    whole = all(s % tile == 0 and tile <= s <= _MOST_TILES * tile for r in resolutions for s in r)
    if not resolutions or not whole:
        raise ModelError(
            f"{name}: image_grid_pinpoints in config.json is {str(given)[:80]}; pairs of multiples "
            f"of {tile}, up to {_MOST_TILES} times, are needed"
        )
    return Tiling(resolutions, int(match[1]))


def _usual(tile: int) -> list[list[int]]:
    """Up to 6 x 6 tiles."""
    sides = range(tile, 6 * tile + 1, tile)
    return [[high, wide] for high in sides for wide in sides]


def _newline(name: str, config: Config, video: bool) -> Newline:
    newline = config.get("mm_newline_position", "grid" if video else "one_token")
    if newline not in get_args(Newline):
        choices = ", ".join(get_args(Newline))
        raise ModelError(f"{name}: mm_newline_position is {newline!r}; it can be {choices}")
    # Upstream makes the newline embedding only for the merge types that name "unpad".
    if "unpad" not in str(config.get("mm_patch_merge_type", "spatial_unpad")):
        return "no_token"
    chosen: Newline = newline
    return chosen
