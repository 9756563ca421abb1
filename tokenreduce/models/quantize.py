"""4-bit and 8-bit weights by bitsandbytes, of the language model only; verified by counting.

NF4 as in QLoRA (arXiv 2305.14314) with double quantisation, which saves 0.3 GB at 7B; LLM.int8()
(arXiv 2208.07339). Vision tower, projector, embeddings and lm_head stay as they are.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from tokenreduce.errors import ModelError, SettingError
from tokenreduce.models.spec import TextSpec

Quantize = Literal["nf4", "int8", "none"]
# From this size of the LLM's layers in bfloat16 on, "auto" quantises: below it nothing is won.
_AUTO_BYTES = 2_000_000_000
# Matched from the start of a module's full name; the short names silently match nothing, and the
# vision tower is quantised.
_SKIP = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
_CLASSES: dict[Quantize, str] = {"nf4": "Linear4bit", "int8": "Linear8bitLt", "none": "Linear"}


def choose(asked: str, text: TextSpec, device: torch.device) -> Quantize:
    """What to load: "auto" is nf4 for a large model on CUDA and none elsewhere.

    Raises SettingError for an unknown name or where bitsandbytes is not installed.
    """
    available = find_spec("bitsandbytes") is not None
    if asked == "auto":
        large = layer_bytes(text) > _AUTO_BYTES
        return "nf4" if available and large and device.type == "cuda" else "none"
    for choice in get_args(Quantize):
        if choice == asked:
            if choice != "none" and not available:
                raise SettingError(f"quantize {asked}: bitsandbytes is not installed; use none")
            chosen: Quantize = choice
            return chosen
    raise SettingError(f"quantize {asked!r}: it can be auto, {', '.join(get_args(Quantize))}")


def layer_bytes(text: TextSpec) -> int:
    """Bytes of the matrices of all decoder layers in bfloat16: what quantisation acts on."""
    queries = text.heads * text.head_width
    attention = text.width * (2 * queries + 2 * text.kv_width)
    return 2 * text.layers * (attention + 3 * text.width * text.mlp_width)


def bits_config(quantize: Quantize) -> Any:
    """The BitsAndBytesConfig for loading; None loads the weights as they are."""
    if quantize == "none":
        return None
    config: Any = BitsAndBytesConfig  # untyped
    if quantize == "int8":
        return config(load_in_8bit=True, llm_int8_skip_modules=list(_SKIP))
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=list(_SKIP),
    )


def verify(model: nn.Module, language: nn.Module, quantize: Quantize) -> None:
    """Raises ModelError unless every matrix of `language`, and none of the rest of `model`, is of
    the kind that `quantize` promises."""
    inside = {id(module) for module in language.modules()}
    kinds = Counter(
        (id(module) in inside, type(module).__name__)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    )
    wanted = _CLASSES[quantize]
    wrong = {
        (part, kind): count
        for (part, kind), count in kinds.items()
        if kind != (wanted if part else "Linear")
    }
    if wrong or not kinds[True, wanted]:
        found = ", ".join(
            f"{count} {kind} {'in' if part else 'outside'} the language model"
            for (part, kind), count in sorted(kinds.items())
        )
        raise ModelError(
            f"quantize {quantize} went wrong: {found}; use --quantize none, and please report it"
        )
