"""Reads fields of a checkpoint's config.json and trusts none; imports no torch, knows no family.

Every error is one line that names the model, the key and what was found there.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from tokenreduce.errors import ModelError
from tokenreduce.models.spec import TextSpec, VisionSpec

Config = Mapping[str, Any]
Channels = tuple[float, float, float]

# Far above any model there is; a file that says more is damaged, and would be built on trust.
_MOST, _MOST_LAYERS = 1 << 24, 1024
_HALF: Channels = (0.5, 0.5, 0.5)


def vision_spec(
    name: str,
    vision: Config,
    preprocessor: Config,
    *,
    mean: Channels = _HALF,
    std: Channels = _HALF,
    classes: int = 0,
) -> VisionSpec:
    """mean, std: where preprocessor_config.json has none. classes: tokens that are no patches."""
    spec = VisionSpec(
        layers=count(name, vision, "num_hidden_layers"),
        width=count(name, vision, "hidden_size"),
        mlp_width=count(name, vision, "intermediate_size"),
        heads=count(name, vision, "num_attention_heads"),
        image_size=count(name, vision, "image_size"),
        patch_size=count(name, vision, "patch_size"),
        mean=channels(name, preprocessor, "image_mean", mean),
        std=channels(name, preprocessor, "image_std", std),
        classes=classes,
    )
    if spec.side < 2:
        raise ModelError(
            f"{name}: image_size {spec.image_size} over patch_size {spec.patch_size} leaves "
            f"{spec.side} patches a side; at least 2 are needed"
        )
    return spec


def text_spec(name: str, text: Config) -> TextSpec:
    """Of a section with the fields of a Qwen2Config or a LlamaConfig. Raises ModelError."""
    width, heads = count(name, text, "hidden_size"), count(name, text, "num_attention_heads")
    kv_heads = count(name, text, "num_key_value_heads", heads)
    if width % heads or heads % kv_heads:
        raise ModelError(
            f"{name}: {heads} attention heads and {kv_heads} key heads do not divide a width "
            f"of {width}"
        )
    return TextSpec(
        layers=count(name, text, "num_hidden_layers"),
        width=width,
        mlp_width=count(name, text, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=count(name, text, "head_dim", width // heads),
        vocab=count(name, text, "vocab_size"),
        context=count(name, text, "max_position_embeddings", 32768),
        tied=text.get("tie_word_embeddings") is True,
    )


def count(name: str, config: Config, key: str, default: int | None = None) -> int:
    """A whole number from 1 on. Raises ModelError for any other, and for one beyond reason."""
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


def channels(name: str, config: Config, key: str, default: Channels) -> Channels:
    """One number for each of R, G and B. Raises ModelError."""
    value = config.get(key, default)
    match value:
        case [float() | int() as r, float() | int() as g, float() | int() as b]:
            if all(isfinite(x) and (x > 0 or key == "image_mean") for x in (r, g, b)):
                return float(r), float(g), float(b)
    raise ModelError(
        f"{name}: {key} in preprocessor_config.json is {value!r}; three numbers are needed, and "
        "standard deviations above 0"
    )


def mapping(name: str, key: str, value: Any) -> Config:
    """`value`, if it is a section. Raises ModelError."""
    if not isinstance(value, Mapping):
        raise ModelError(f"{name}: {key} in config.json is {value!r}; an object is needed")
    return value


def refuse_other(name: str, config: Config, key: str, allowed: tuple[Any, ...]) -> None:
    """Raises ModelError if `config` says something else than one of `allowed` about `key`."""
    if key in config and config[key] not in allowed:
        choices = ", ".join(str(value) for value in allowed)
        raise ModelError(f"{name}: {key} is {config[key]!r}; supported: {choices}")
