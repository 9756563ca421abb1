"""The same prefill inside multi-modal containers and over 4-bit layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BitsAndBytesConfig,
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)

from tokenreduce.engine import attention
from tokenreduce.engine.host import HostedLlava, HostedLlavaOnevision, HostedQwen2, prepare
from tokenreduce.engine.types import Plan, Prompt, Prune
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.schedule import Full, Ramp

MakePrompt = Callable[..., Prompt]
TEXT: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def onevision() -> tuple[Any, Any]:
    def config() -> LlavaOnevisionConfig:
        return LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**VISION), text_config=Qwen2Config(**TEXT)
        )

    return LlavaOnevisionForConditionalGeneration(config()), HostedLlavaOnevision(config())


def llava() -> tuple[Any, Any]:
    def config() -> LlavaConfig:
        return LlavaConfig(
            vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT)
        )

    return LlavaForConditionalGeneration(config()), HostedLlava(config())


@pytest.mark.parametrize("make", [onevision, llava])
def test_containers_generate_as_stock_and_pruned(
    make: Callable[[], tuple[Any, Any]], make_prompt: MakePrompt
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        stock, hosted = (model.eval() for model in make())
    hosted.load_state_dict(stock.state_dict())
    prepare(hosted)
    # Only the language model is observed; the tower keeps what it had.
    assert hosted.get_decoder().config._attn_implementation == attention.NAME
    assert hosted.config.vision_config._attn_implementation == "sdpa"
    prompt = make_prompt(30, range(4, 24))
    wanted = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    plain = stock.generate(inputs_embeds=prompt.embeds, **wanted)

    def answer(schedule: Any) -> Any:
        plan = Plan(prompt, [Prune(AimPrune(), schedule)], 0, counts.append)
        return hosted.generate(inputs_embeds=prompt.embeds, plan=plan, **wanted)

    counts: list[Any] = []
    assert torch.equal(answer(Full()), plain)
    assert torch.equal(hosted.generate(inputs_embeds=prompt.embeds, **wanted), plain)
    answer(Ramp(Fraction(1, 4), Fraction(1)))
    assert [read.per_layer for read in counts] == [(20, 20, 20, 20), (20, 20, 13, 6)]


@pytest.fixture(scope="module")
def nf4(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A stock and a hosted Qwen2 with 4-bit layers, from one checkpoint."""
    folder: Path = tmp_path_factory.mktemp("nf4")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        sizes = {**TEXT, "hidden_size": 64, "intermediate_size": 64}
        Qwen2ForCausalLM(Qwen2Config(**sizes)).save_pretrained(folder)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )

    def load(kind: Any) -> Any:
        return kind.from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=torch.bfloat16
        ).eval()

    stock, hosted = load(Qwen2ForCausalLM), load(HostedQwen2)
    prepare(hosted)
    return stock, hosted


def test_four_bit_layers(nf4: tuple[Any, Any], make_prompt: MakePrompt) -> None:
    stock, hosted = nf4
    kinds = [type(module).__name__ for module in hosted.modules()]
    assert kinds.count("Linear4bit") == 4 * 7
    prompt = make_prompt(30, range(4, 24), width=64)
    prompt = replace(prompt, embeds=prompt.embeds.bfloat16())
    caches = [DynamicCache(config=model.config) for model in nf4]
    plain = stock(inputs_embeds=prompt.embeds, past_key_values=caches[0], logits_to_keep=1).logits
    plan = Plan(prompt, [Prune(AimPrune(), Full())])
    kept = hosted(inputs_embeds=prompt.embeds, past_key_values=caches[1], plan=plan).logits
    assert torch.equal(kept, plain)
    reads: list[Any] = []
    plan = Plan(prompt, [Prune(AimPrune(), Ramp(Fraction(1, 4), Fraction(1)))], 0, reads.append)
    out = hosted.generate(
        inputs_embeds=prompt.embeds, plan=plan, max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    assert out.shape == (1, 6)
    assert reads[0].per_layer == (20, 20, 13, 6)
    assert not torch.equal(reads[0].logits, plain)
