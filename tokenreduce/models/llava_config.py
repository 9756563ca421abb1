"""Reads the config.json of LLaVA-Video and LLaVA-OneVision checkpoints; imports no torch.

Two layouts hold the same architecture (SigLIP, two-layer MLP, Qwen2): the original one of the
LLaVA-NeXT code, whose config.json has no vision section, and that of transformers. Knows nothing
about where a checkpoint lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal, get_args

from tokenreduce.budget import Newline
from tokenreduce.errors import ModelError
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec

Config = Mapping[str, Any]
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
# Far above any model there is; a file that says more is damaged, and would be built on trust.
_MOST, _MOST_LAYERS = 1 << 24, 1024
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
    if "quantization_config" in config:
        raise ModelError(
            f"{name}: its config.json says quantization_config, so its weights are quantised "
            "already; give the original checkpoint and --quantize"
        )
    vision, language = vision_section(name, config), text_section(name, config)
    _refuse_other(name, vision, "model_type", ("siglip_vision_model",))
    _refuse_other(name, vision, "hidden_act", ("gelu_pytorch_tanh",))
    _refuse_other(name, language, "hidden_act", ("silu",))
    _refuse_other(name, language, "use_sliding_window", (False, None))
    _refuse_other(name, config, "projector_hidden_act", ("gelu",))
    text = _text_spec(name, language)
    if format_of(config) == "transformers":
        _refuse_other(name, config, "vision_feature_layer", (-1, vision.get("num_hidden_layers")))
        _refuse_other(name, config, "vision_feature_select_strategy", ("full",))
        return ModelSpec(
            name=name,
            vision=_vision_spec(name, vision, preprocessor),
            text=text,
            pool="bilinear",
            newline="one_token",
            native_frames=_count(name, config, "native_frames", 32),
            time_text=False,
        )
    video = any(key in config for key in _VIDEO_KEYS) or "llava-video" in name.lower()
    _refuse_other(name, config, "mm_projector_type", ("mlp2x_gelu",))
    _refuse_other(name, config, "mm_resampler_type", (None,))
    _refuse_other(name, config, "mm_use_im_start_end", (False,))
    _refuse_other(name, config, "mm_spatial_pool_mode", _POOLS)
    version = config.get("world_version")
    return ModelSpec(
        name=name,
        vision=_vision_spec(name, vision, {}),
        text=text,
        pool=config.get("mm_spatial_pool_mode", "bilinear"),
        newline=_newline(name, config, video),
        native_frames=_count(name, config, "native_frames", 64 if video else 32),
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
        return {**_SIGLIP_DEFAULTS, **_mapping(name, "vision_config", section)}
    if section is not None:
        return _mapping(name, "vision_config", section)
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
        section = _mapping(name, "text_config", config.get("text_config"))
        section = {**_QWEN2_DEFAULTS, **section}
        kind = section.get("model_type", "qwen2")
        if kind != "qwen2":
            raise ModelError(f"{name}: its language model is {kind!r}; only qwen2 is supported")
    found = {key: section[key] for key in _TEXT_KEYS if key in section}
    if config.get("tie_word_embeddings"):
        found["tie_word_embeddings"] = True
    return found


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


def _vision_spec(name: str, vision: Config, preprocessor: Config) -> VisionSpec:
    spec = VisionSpec(
        layers=_count(name, vision, "num_hidden_layers"),
        width=_count(name, vision, "hidden_size"),
        mlp_width=_count(name, vision, "intermediate_size"),
        heads=_count(name, vision, "num_attention_heads"),
        image_size=_count(name, vision, "image_size"),
        patch_size=_count(name, vision, "patch_size"),
        mean=_channels(name, preprocessor, "image_mean"),
        std=_channels(name, preprocessor, "image_std"),
    )
    if spec.side < 2:
        raise ModelError(
            f"{name}: image_size {spec.image_size} over patch_size {spec.patch_size} leaves "
            f"{spec.side} patches a side; at least 2 are needed"
        )
    return spec


def _text_spec(name: str, text: Config) -> TextSpec:
    width, heads = _count(name, text, "hidden_size"), _count(name, text, "num_attention_heads")
    kv_heads = _count(name, text, "num_key_value_heads", heads)
    if width % heads or heads % kv_heads:
        raise ModelError(
            f"{name}: {heads} attention heads and {kv_heads} key heads do not divide a width "
            f"of {width}"
        )
    return TextSpec(
        layers=_count(name, text, "num_hidden_layers"),
        width=width,
        mlp_width=_count(name, text, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=_count(name, text, "head_dim", width // heads),
        vocab=_count(name, text, "vocab_size"),
        context=_count(name, text, "max_position_embeddings", 32768),
    )


def _count(name: str, config: Config, key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if value is None and default is not None:
        return default
    most = _MOST_LAYERS if key == "num_hidden_layers" else _MOST
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        given = "missing" if key not in config else repr(value)
        raise ModelError(
            f"{name}: {key} in config.json is {given}; a count from 1 to {most} needed"
        )
    return value


def _channels(name: str, config: Config, key: str) -> tuple[float, float, float]:
    value = config.get(key, (0.5, 0.5, 0.5))
    match value:
        case [float() | int() as r, float() | int() as g, float() | int() as b]:
            if all(isfinite(x) and (x > 0 or key == "image_mean") for x in (r, g, b)):
                return float(r), float(g), float(b)
    raise ModelError(
        f"{name}: {key} in preprocessor_config.json is {value!r}; three numbers are needed, and "
        "standard deviations above 0"
    )


def _mapping(name: str, key: str, value: Any) -> Config:
    if not isinstance(value, Mapping):
        raise ModelError(f"{name}: {key} in config.json is {value!r}; an object is needed")
    return value


def _refuse_other(name: str, config: Config, key: str, allowed: tuple[Any, ...]) -> None:
    if key in config and config[key] not in allowed:
        choices = ", ".join(str(value) for value in allowed)
        raise ModelError(f"{name}: {key} is {config[key]!r}; supported: {choices}")
