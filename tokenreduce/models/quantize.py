"""4-bit and 8-bit weights by bitsandbytes, of the language model only; verified by counting.

NF4 as in QLoRA (arXiv 2305.14314) with double quantisation, which saves 0.3 GB at 7B; LLM.int8()
(arXiv 2208.07339). Vision tower, projector, embeddings and lm_head stay as they are.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from tokenreduce.errors import ModelError, SettingError
from tokenreduce.models.saved import BLOCK
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


def bits_config(quantize: Quantize, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The BitsAndBytesConfig for loading; None loads the weights as they are.

    dtype: of what is not quantised. NF4 layers compute in bfloat16 (beside float32 too, which would
    write their matrices out twice as large), but beside float16 in that: cards below 8.0 have no
    instructions for bfloat16, and a layer converts what it is given and what it gives.
    """
    if quantize == "none":
        return None
    config: Any = BitsAndBytesConfig  # untyped
    if quantize == "int8":
        return config(load_in_8bit=True, llm_int8_skip_modules=list(_SKIP))
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float16 if dtype == torch.float16 else torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=list(_SKIP),
    )


def quantised(weight: Tensor) -> dict[str, Tensor]:
    """A matrix as NF4, on its device: the codes under "", and beside them by suffix what
    bitsandbytes needs to read them.

    weight: (rows, columns), contiguous, in the dtype it would be loaded in. The same bits as
    quantising while loading gives on that device.
    """
    functional: Any = import_module("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(
        weight,
        blocksize=BLOCK,
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=torch.uint8,
    )
    parts: dict[str, Tensor] = state.as_dict(packed=True)
    return {"": codes, **{f".{suffix}": part for suffix, part in parts.items()}}


def promise_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """The matrices of a model that was saved quantised give weights of `dtype`, as if they had been
    quantised from it now; saved with them is the dtype they had then."""
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            state.dtype = dtype


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
