"""Writes the trained model as a checkpoint in LLaVA-Video's original layout.

    python -m training.export [--folder runs/demo] [--to tokenreduce/demo/checkpoint]

Weights are stored in float16, which holds these to about 1e-3 of their size; `training.evaluate
--rounded` scores the model with the rounded weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tokenreduce.demo.world import NATIVE, VERSION
from training.batches import Words
from training.model import CONTEXT, DEPTH, HEADS, KV_HEADS, MLP, WIDTH, DemoModel

CHECKPOINT_VERSION = 1
NATIVE_FRAMES = 16


def tensors(model: DemoModel) -> dict[str, Tensor]:
    """The weights under their names in lmms-lab/LLaVA-Video-7B-Qwen2."""
    named: dict[str, Tensor] = {}
    for name, tensor in model.llm.state_dict().items():
        named[name] = tensor  # model.embed_tokens, model.layers.N, model.norm, lm_head
    named["model.image_newline"] = model.newline
    for layer in (0, 2):
        for part in ("weight", "bias"):
            parameter = model.projector.get_parameter(f"{layer}.{part}")
            named[f"model.mm_projector.{layer}.{part}"] = parameter
    for name, tensor in model.tower.state_dict().items():
        if not name.endswith("position_ids"):
            named[f"model.vision_tower.vision_tower.vision_model.{name}"] = tensor
    # clone: lm_head shares its storage with the embeddings, and safetensors refuses shared storage.
    return {name: tensor.detach().half().clone() for name, tensor in sorted(named.items())}


def config(words: Words) -> dict[str, Any]:
    """LLaVA-Video's config.json with our sizes; the last four keys are ours."""
    encode = words.tokenizer.token_to_id
    vision = {
        "hidden_size": 128,
        "image_size": NATIVE,
        "intermediate_size": 320,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "patch_size": 8,
    }
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava",
        "add_faster_video": False,
        "add_time_instruction": True,
        "attention_dropout": 0.0,
        "bos_token_id": encode("<|endoftext|>"),
        "eos_token_id": encode("<|im_end|>"),
        "force_sample": True,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "image_aspect_ratio": "anyres_max_9",
        "initializer_range": 0.02,
        "intermediate_size": MLP,
        "max_position_embeddings": CONTEXT,
        "mm_hidden_size": vision["hidden_size"],
        "mm_newline_position": "grid",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": 2,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "tokenreduce/demo-siglip-patch8-96",
        "num_attention_heads": HEADS,
        "num_hidden_layers": DEPTH,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "tokenizer_model_max_length": CONTEXT,
        "tokenizer_padding_side": "right",
        "torch_dtype": "float16",
        "use_cache": True,
        "use_mm_proj": True,
        "use_sliding_window": False,
        "vocab_size": words.size,
        "checkpoint_version": CHECKPOINT_VERSION,
        "native_frames": NATIVE_FRAMES,
        "vision_config": vision,
        "world_version": VERSION,
    }


def load(folder: Path, words: Words) -> DemoModel:
    """The model of the run in `folder`, as far as it has been trained."""
    model = DemoModel(words.size)
    model.load_state_dict(torch.load(folder / "language.pt")["model"])
    return model.eval()


def write(folder: Path, to: Path) -> None:
    words = Words(folder)
    to.mkdir(parents=True, exist_ok=True)
    save_file(tensors(load(folder, words)), to / "model.safetensors", {"format": "pt"})
    (to / "model.safetensors").chmod(0o644)  # safetensors writes it readable by its owner only
    (to / "config.json").write_text(json.dumps(config(words), indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, to / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--to", type=Path, default=Path("tokenreduce/demo/checkpoint"))
    options = parser.parse_args()
    write(options.folder, options.to)


if __name__ == "__main__":
    main()
