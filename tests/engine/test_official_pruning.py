"""AIM's pruning against what the official code computed on the same weights and embeddings."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from tokenreduce.budget import Layout
from tokenreduce.engine import prefill
from tokenreduce.engine.host import HostedQwen2, prepare, read_prompt
from tokenreduce.engine.state import start
from tokenreduce.engine.types import Plan, Prompt, Prune
from tokenreduce.importance import importance
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.schedule import Ramp
from tokenreduce.tokens import Attention, Tokens

GOLDEN = Path(__file__).parent.parent / "golden"
E2E = load_file(GOLDEN / "aim_e2e" / "cases.safetensors")
FULL = load_file(GOLDEN / "aim_full" / "prefill.safetensors")
CASES: dict[str, Any] = json.loads((GOLDEN / "aim_e2e" / "cases.json").read_text())
FULL_CASES = sorted({key.split("/")[0] for key in FULL})
STEPS = 8


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """transformers' model and ours, with the golden weights."""
    config = Qwen2Config(**json.loads((GOLDEN / "aim_e2e" / "config.json").read_text()))
    weights = load_file(GOLDEN / "aim_e2e" / "model.safetensors")
    stock: Any = Qwen2ForCausalLM(config)
    hosted: Any = HostedQwen2(copy.deepcopy(config))
    for model in (stock, hosted):
        model.load_state_dict(weights)
        model.eval()
    prepare(hosted)
    return stock, hosted


def prompt_of(embeds: Tensor, begin: int, end: int) -> Prompt:
    tokens = Tokens.fresh(embeds[:, begin:end])
    return Prompt(embeds, torch.arange(begin, end), tokens, Layout(1, 1, end - begin))


def e2e_prompt(case: str) -> Prompt:
    begin, end, _ = CASES[case]["boundaries"]
    return prompt_of(E2E[f"{case}/inputs_embeds"], begin, end)


def official_keeps(mask: Tensor, prompt: Prompt) -> list[list[int]]:
    """(28, N) masks after each layer -> places left at each layer where any went."""
    visual = mask[:, prompt.visual].bool()
    counts = [visual.shape[1], *visual.sum(dim=1).tolist()]
    return [
        row.nonzero().squeeze(1).tolist()
        for row, before, after in zip(visual, counts[:-1], counts[1:], strict=True)
        if after < before
    ]


def decode(model: Any, prompt: Prompt, *prunes: Prune) -> tuple[Tensor, list[int], Any]:
    """Logits (8, vocab), greedy tokens and the last position's hidden state, layer by layer."""
    hidden: list[Tensor] = []
    stack = model.model
    hooks = [
        layer.register_forward_pre_hook(lambda _, a: hidden.append(a[0][0, -1]))
        for layer in stack.layers
    ]
    hooks.append(stack.norm.register_forward_hook(lambda *a: hidden.append(a[2][0, -1])))
    plan = {"plan": Plan(prompt, prunes)} if prunes else {}
    out = model.generate(
        inputs_embeds=prompt.embeds,
        max_new_tokens=STEPS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **plan,
    )
    for hook in hooks:
        hook.remove()
    return torch.cat(out.logits), out.sequences[0].tolist(), torch.stack(hidden[:29])


@pytest.mark.parametrize("case", CASES)
def test_plain(models: tuple[Any, Any], case: str) -> None:
    logits, tokens, hidden = decode(models[0], e2e_prompt(case))
    torch.testing.assert_close(logits, E2E[f"{case}/plain/logits"], rtol=0, atol=1e-3)
    assert tokens == E2E[f"{case}/plain/tokens"].tolist()
    expected = E2E[f"{case}/plain/hidden_last_per_layer"]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_pruned_with_the_official_kept_sets(
    models: tuple[Any, Any], forced: Any, case: str
) -> None:
    prompt = e2e_prompt(case)
    keeps = official_keeps(E2E[f"{case}/keep_mask_after_layer"], prompt)
    assert len(keeps) == 8
    logits, tokens, hidden = decode(models[1], prompt, Prune(forced(keeps), Ramp()))
    assert keeps == []
    expected = E2E[f"{case}/pruned_clean/logits"]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)
    assert tokens == E2E[f"{case}/pruned_clean/tokens"].tolist()
    inner = E2E[f"{case}/pruned_clean/hidden_last_per_layer"]
    torch.testing.assert_close(hidden, inner, rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_own_kept_sets_differ_by_few_tokens(
    models: tuple[Any, Any], recorded: Any, case: str
) -> None:
    """Only because masked tokens go on voting in the official code; until the first removal there
    is no such token, so the first set is the same."""
    prompt, spy = e2e_prompt(case), recorded(AimPrune())
    logits, _, _ = decode(models[1], prompt, Prune(spy, Ramp()))
    official = official_keeps(E2E[f"{case}/keep_mask_after_layer"], prompt)
    swaps = [len(set(a) - set(b)) for a, b in zip(spy.places, official, strict=True)]
    assert [len(a) for a in spy.places] == [len(b) for b in official]
    assert swaps[0] == 0
    assert max(swaps) <= 3
    assert swaps[-1] == 0  # none left
    assert (logits[0] - E2E[f"{case}/pruned_clean/logits"][0]).abs().max() < 0.2


@pytest.mark.parametrize("case", CASES)
def test_masked_voters_give_the_official_importance(
    models: tuple[Any, Any], masked: Any, case: str
) -> None:
    """With the official masks, so with its masked voters, our importance is the official one in
    every layer, and so are the sets it would keep."""
    prompt = e2e_prompt(case)
    begin, end, length = CASES[case]["boundaries"]
    mask = E2E[f"{case}/keep_mask_after_layer"].bool()
    sees = torch.cat([torch.ones(1, length, dtype=torch.bool), mask[:-1]])
    reference = masked(models[0], sees)
    reference(prompt.embeds)
    for i, logits in enumerate(reference.scores):
        hidden = ~sees[i][None, None, None, :]
        z = logits.masked_fill(hidden, torch.finfo(torch.float32).min)
        unit = torch.eye(length).expand_as(z)
        score = importance(Attention(z, unit, 1.0, causal=True))[-1, 0]
        official = E2E[f"{case}/importance_per_layer"][i]
        if official.isnan().any():  # no text before the video: nothing left to see
            continue
        torch.testing.assert_close(score, official, rtol=1e-3, atol=1e-6)
        keep = int(mask[i, begin:end].sum())
        if 0 < keep < int(sees[i, begin:end].sum()):
            visible = score[begin:end].masked_fill(~sees[i, begin:end], -1.0)
            chosen = visible.argsort(descending=True, stable=True)[:keep].sort().values
            assert chosen.tolist() == mask[i, begin:end].nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("case", FULL_CASES)
def test_first_logits_after_merging(models: tuple[Any, Any], forced: Any, case: str) -> None:
    begin, end, length = FULL[f"{case}/boundaries"][0].tolist()
    prompt = prompt_of(FULL[f"{case}/inputs_embeds"], begin, end)
    assert prompt.embeds.shape[1] == length
    keeps = official_keeps(FULL[f"{case}/keep_mask_after_layer"], prompt)
    plan = Plan(prompt, [Prune(forced(keeps), Ramp())])
    read = read_prompt(models[1], plan, DynamicCache(config=models[1].config))
    expected = FULL[f"{case}/first_logits"]
    torch.testing.assert_close(read.logits[0, 0], expected, rtol=0, atol=1e-3)
    assert read.logits.argmax() == FULL[f"{case}/first_token"][0]
    assert read.per_layer[-1] == 0


def test_the_schedule_is_the_official_one(models: tuple[Any, Any]) -> None:
    for case in CASES:
        prompt, model = e2e_prompt(case), models[1].model
        cache = DynamicCache(config=model.config)
        ramp = Ramp(Fraction(14, 28), Fraction(22, 28))
        state = prefill.run(model, start(prompt), cache, [Prune(AimPrune(), ramp)])
        n = prompt.visual.shape[0]
        assert list(state.per_layer) == [n, *CASES[case]["kept_visual_after_layer"][:-1]]
