"""LLaVA-Video with random weights and a real checkpoint's exact dimensions, made on its device.

Time and memory do not depend on what the weights are. No file is read or written: an empty model
is filled matrix by matrix on the device, in NF4 each one quantised as soon as it is drawn, so that
the host never holds the model and the device never more than one matrix beside it. What it says is
noise. Knows no benchmark.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tokenreduce.engine.host import HostedLlavaOnevision, prepare
from tokenreduce.errors import SettingError
from tokenreduce.models.chat import END, QWEN, START, Chat, time_text
from tokenreduce.models.fields import Config
from tokenreduce.models.llava_config import read_spec
from tokenreduce.models.llava_video import LlavaVideo, host_config
from tokenreduce.models.quantize import Quantize, bits_config, verify
from tokenreduce.models.weights import quiet

STD = 0.02
"""Of the weights, Qwen2's own initializer_range: with norms of one, activations stay finite."""

_LAYOUT: Config = {
    "architectures": ["LlavaQwenForCausalLM"],
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_spatial_pool_mode": "bilinear",
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "add_time_instruction": True,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, Config] = {
    # lmms-lab/LLaVA-Video-7B-Qwen2's config.json, as far as it decides sizes.
    "7b": {
        **_LAYOUT,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
    },
    # Qwen2-0.5B's sizes under the same tower: what a CPU can still be timed with.
    "0.5b": {
        **_LAYOUT,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
    },
    # The same kind of model, to run on a CPU in tests.
    "tiny": {
        **_LAYOUT,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 640,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 98,
            "patch_size": 14,
        },
    },
}


def make(
    size: str, device: torch.device, dtype: torch.dtype, quantize: Quantize = "none", seed: int = 0
) -> LlavaVideo:
    """A model of CONFIGS[size] on `device`, ready to be asked; everything not quantised in `dtype`.

    It never ends an answer by itself, so that decoding takes as many steps as it is given.
    Raises SettingError for a size that is not there, or NF4 without bitsandbytes.
    """
    if size not in CONFIGS:
        raise SettingError(f"size {size!r}: it can be {', '.join(CONFIGS)}")
    if quantize != "none" and find_spec("bitsandbytes") is None:
        raise SettingError(f"quantize {quantize}: bitsandbytes is not installed; use none")
    config = CONFIGS[size]
    spec = read_spec(f"random-{size}", config, {})
    kind: Any = HostedLlavaOnevision
    with torch.device("meta"), quiet():
        host = kind(host_config(spec.name, config)).to(dtype).eval().requires_grad_(False)
    if quantize != "none":
        # It reports at every layer that it casts, and that an optional CPU kernel is absent.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear

        bits = bits_config(quantize, dtype)
        replace_with_bnb_linear(host, list(bits.llm_int8_skip_modules), bits)
    random = torch.Generator(device).manual_seed(seed)
    for module in list(host.modules()):
        _fill(module, device, dtype, random)
    chat = Chat(tokenizer(spec.text.vocab))
    host.lm_head.weight.data[list(chat.stops)] = 0  # others reach above 0, so these never win
    verify(host, host.model.language_model, quantize)
    prepare(host)
    return LlavaVideo(spec, host, chat, device, dtype, quantize)


def _fill(
    module: nn.Module, device: torch.device, dtype: torch.dtype, random: torch.Generator
) -> None:
    """Gives the module's own parameters and buffers, not its children's, their values."""
    for name, empty in list(module.named_parameters(recurse=False)):
        setattr(module, name, _parameter(module, name, empty, device, dtype, random))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if name == "position_ids":
            module.register_buffer(
                name, torch.arange(buffer.shape[-1], device=device).unsqueeze(0), persistent=False
            )
    if "inv_freq" in dict(module.named_buffers(recurse=False)):
        again: Any = type(module)
        with device:
            fresh = again(module.config)
        for name, buffer in fresh.named_buffers(recurse=False):
            module.register_buffer(name, buffer, persistent=False)


def _parameter(
    module: nn.Module,
    name: str,
    empty: nn.Parameter,
    device: torch.device,
    dtype: torch.dtype,
    random: torch.Generator,
) -> nn.Parameter:
    if name == "bias":
        return nn.Parameter(torch.zeros(empty.shape, device=device, dtype=dtype), False)
    if name == "weight" and "norm" in type(module).__name__.lower():
        return nn.Parameter(torch.ones(empty.shape, device=device, dtype=dtype), False)
    drawn: Tensor = torch.empty(empty.shape, device=device, dtype=dtype)
    drawn.normal_(std=STD, generator=random)
    if type(empty) is nn.Parameter:
        return nn.Parameter(drawn, False)
    packed: Any = type(empty)  # of bitsandbytes; moving one to a device quantises it
    kept: nn.Parameter = packed(drawn, requires_grad=False, **empty.__dict__).to(device)
    return kept


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """`size` tokens at most: bytes, the words of the prompt around a question, START and END.

    A digit is one token and a word of the time instruction is one, so that the instruction takes
    about as many tokens as with Qwen2's own.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    merges = _merges(f"{QWEN.before} {time_text(60, [0, 2, 4])}", size - len(alphabet) - 3)
    for pair in merges:
        vocabulary.setdefault("".join(pair), len(vocabulary))
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _bytes()]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", START, END])
    kind: Any = PreTrainedTokenizerFast  # untyped
    whole: PreTrainedTokenizerFast = kind(
        tokenizer_object=made, eos_token=END, pad_token="<|endoftext|>"
    )
    return whole


def _bytes() -> Any:
    kind: Callable[..., Any] = pre_tokenizers.ByteLevel
    return kind(add_prefix_space=False)


def _merges(text: str, most: int) -> Sequence[tuple[str, str]]:
    """What makes each word of `text` one token, letter after letter; at most `most` merges."""
    found: dict[tuple[str, str], None] = {}
    for word, _ in _bytes().pre_tokenize_str(text):
        if word.lstrip("Ġ").isalpha():
            found |= {(word[:end], word[end]): None for end in range(1, len(word))}
    return list(found)[: max(0, most)]
