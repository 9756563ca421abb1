"""Sizes of the published checkpoints, so that a run can be planned before anything is downloaded.

What their config.json files say, as far as a ModelSpec needs it. A checkpoint that is loaded is
always read from its own file: nothing here is used for that. Imports no torch.
"""

from __future__ import annotations

from typing import Any

from tokenreduce.models.aliases import ALIASES
from tokenreduce.models.families import family_of
from tokenreduce.models.locate import cached, config_folder, resolve, spec_in
from tokenreduce.models.spec import ModelSpec

_QWEN2_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
}
_QWEN2_72B: dict[str, Any] = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
}
_QWEN2_HALF_B: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 152000,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
_VIDEO: dict[str, Any] = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "add_time_instruction": True,
    "mm_newline_position": "grid",
    "mm_spatial_pool_mode": "bilinear",
}


def _onevision(text: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "llava_onevision", "text_config": {"model_type": "qwen2", **text}}


def _llava15(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "llava",
        "text_config": {"vocab_size": 32064, "max_position_embeddings": 4096, **text},
    }


_CONFIGS: dict[str, dict[str, Any]] = {
    "llava-video-7b": {**_VIDEO, **_QWEN2_7B},
    "llava-video-72b": {**_VIDEO, **_QWEN2_72B},
    "llava-onevision-0.5b": _onevision(_QWEN2_HALF_B),
    "llava-onevision-7b": _onevision({**_QWEN2_7B, "vocab_size": 152000}),
    "llava-1.5-7b": _llava15({}),
    "llava-1.5-13b": _llava15(
        {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        }
    ),
}


def builtin(alias: str) -> ModelSpec | None:
    """The sizes of the checkpoint that an alias of `models.aliases` stands for; None for one that
    comes with the package."""
    config, hub_id = _CONFIGS.get(alias), ALIASES[alias].hub_id
    if config is None or hub_id is None:
        return None
    return family_of(hub_id, config).read_spec(hub_id, config, {})


def planned_spec(
    name: str, revision: str | None = None, *, offline: bool = False
) -> tuple[ModelSpec, bool]:
    """The ModelSpec of a name, and whether it is built in: from the model's own file if that is on
    this machine, else as built in, else with a download of its two small files. Raises SettingError
    for a name that stands for nothing, ModelError for a configuration that cannot be had or used.
    """
    source = resolve(name, revision, offline=offline)
    if source.folder is None and source.revision is None and cached(source) is None:
        for alias in ALIASES.values():
            if alias.hub_id is not None and alias.hub_id == source.hub_id:
                spec = builtin(alias.name)
                if spec is not None:
                    return spec, True
    return spec_in(config_folder(source), source.name), False
