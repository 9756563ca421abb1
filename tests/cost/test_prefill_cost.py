"""A prefill in which tokens leave: its cost is what torch counts, under every schedule."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, Qwen2Config

from tokenreduce import cost, overhead
from tokenreduce.budget import Layout
from tokenreduce.engine.host import HostedQwen2, prepare, read_prompt
from tokenreduce.engine.types import Plan, Prompt, Prune
from tokenreduce.methods.controls import Uniform
from tokenreduce.methods.fastv import FastV
from tokenreduce.models.spec import TextSpec
from tokenreduce.paradigm import Method
from tokenreduce.schedule import SCHEDULES, Even, Full, Levels, Once, Ramp, Schedule, Steps
from tokenreduce.tokens import Tokens

SPEC = TextSpec(8, 64, 96, 4, 2, 16, 100, 4096)
VISUAL, TEXT = 60, 12
HALVES = (Fraction(1, 4), Fraction(1, 2))
SHAPES: dict[str, Schedule] = {
    "full": Full(),
    "ramp": Ramp(Fraction(1, 4), Fraction(3, 4)),
    "once": Once(Fraction(1, 2), Fraction(1, 2)),
    "even": Even(Fraction(1, 2)),
    "steps": Steps(HALVES, Fraction(1, 2)),
    "levels": Levels(HALVES, (Fraction(2, 3), Fraction(1, 3))),
}


FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch's counter knows others


def attended(q: Any, k: Any, v: Any, *rest: Any, **more: Any) -> int:
    """All pairs, future ones too, as the paper charges them; from shapes (b, h, l, d_head)."""
    return int(4 * q.numel() * k[2])


@pytest.fixture(scope="module")
def model() -> HostedQwen2:
    config = Qwen2Config(
        hidden_size=SPEC.width,
        intermediate_size=SPEC.mlp_width,
        num_hidden_layers=SPEC.layers,
        num_attention_heads=SPEC.heads,
        num_key_value_heads=SPEC.kv_heads,
        vocab_size=SPEC.vocab,
        max_position_embeddings=SPEC.context,
    )
    made = HostedQwen2(config).eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    prepare(made)
    assert isinstance(made, HostedQwen2)
    return made


def test_every_schedule_is_among_the_shapes() -> None:
    assert {name: type(shape) for name, shape in SHAPES.items()} == SCHEDULES


@pytest.mark.parametrize("method", [Uniform(), FastV()], ids=["uniform", "fastv"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_a_prefill_in_which_tokens_leave(model: HostedQwen2, name: str, method: Method) -> None:
    embeds = torch.randn(1, VISUAL + TEXT, SPEC.width)
    visual = torch.arange(2, 2 + VISUAL)
    tokens = Tokens.fresh(embeds[:, visual]).bare()
    prompt = Prompt(embeds, visual, tokens, Layout(1, 6, 10))
    prunes = [Prune(method, SHAPES[name])]
    counter = FlopCounterMode(display=False, custom_mapping={FUSED: attended})
    with torch.no_grad(), counter as counted:
        read = read_prompt(model, Plan(prompt, prunes), DynamicCache())
    per_layer = cost.acting(SHAPES[name], SPEC.layers, VISUAL)
    assert read.per_layer == per_layer
    ours = cost.llm_cost(SPEC, per_layer, TEXT)
    ours += overhead.inside_llm(prunes, SPEC, per_layer, TEXT)
    # The paper charges the output layer width x vocabulary, one operation for each weight.
    output = SPEC.width * SPEC.vocab
    assert counted.get_total_flops() == ours.matmul + output
