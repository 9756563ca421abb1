"""Every method inside a real prefill, on its usual schedule; the registry brings new ones here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.engine.types import Plan, Prompt, Prune
from tokenreduce.methods import METHODS

WITHIN = [name for name, kind in METHODS.items() if "llm" in kind().sites]
FRAMES, PITCH = 4, 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WITHIN)
def test_counts_are_the_schedules_and_the_answer_is_finite(
    qwen2: Any, make_prompt: Callable[..., Prompt], name: str, dtype: torch.dtype
) -> None:
    """4 frames of 3 x 3 with newlines, text before and after, 6 layers."""
    n = FRAMES * PITCH
    prompt = make_prompt(n + 11, range(5, n + 5))
    prompt = replace(prompt, embeds=prompt.embeds.to(dtype), grid=Layout(FRAMES, 3, 3, "grid"))
    method = METHODS[name]()
    schedule = method.usual
    assert schedule is not None
    hosted = copy.deepcopy(qwen2.hosted).to(dtype)
    cache: Any = DynamicCache(config=hosted.config)
    plan = Plan(prompt, (Prune(method, schedule),))
    out = hosted(inputs_embeds=prompt.embeds, past_key_values=cache, plan=plan)
    left = [schedule.kept(layer, 6, n) for layer in range(6)]
    assert [layer.keys.shape[2] - 11 for layer in cache.layers] == [n, *left[:-1]]
    assert left[-1] < n
    assert torch.isfinite(out.logits).all()
