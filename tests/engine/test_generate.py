"""Generation: streamed text, sampling, endings, interruption, timing and what it leaves behind."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tokenreduce.engine.generate import generate
from tokenreduce.engine.types import Generation, Plan, Prefilled, Prompt, Prune, Sampling
from tokenreduce.errors import SettingError
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.schedule import Ramp

MakePrompt = Callable[..., Prompt]
PRUNES = (Prune(AimPrune(), Ramp(Fraction(1, 3), Fraction(1))),)


def spelled(ids: list[int]) -> str:
    return "".join(f"<{token}>" for token in ids)


@pytest.fixture
def ask(qwen2: Any, make_prompt: MakePrompt) -> Callable[..., tuple[Generation, list[str]]]:
    def ask(
        sampling: Sampling, eos_ids: Sequence[int] = (), prunes: Sequence[Prune] = PRUNES
    ) -> tuple[Generation, list[str]]:
        pieces: list[str] = []
        generation = generate(
            qwen2.hosted,
            spelled,
            make_prompt(40, range(6, 33)),
            prunes,
            sampling,
            eos_ids,
            pieces.append,
            lambda _: pieces.append("|"),
        )
        return generation, pieces

    return ask


def test_an_answer_and_what_it_took(ask: Any, qwen2: Any, make_prompt: MakePrompt) -> None:
    generation, pieces = ask(Sampling(12))
    plan = Plan(make_prompt(40, range(6, 33)), PRUNES)
    stock = qwen2.hosted.generate(
        inputs_embeds=plan.prompt.embeds,
        plan=plan,
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    assert generation.text == spelled(stock[0].tolist())
    assert pieces[0] == "|"  # the prompt is read before any text comes
    assert pieces[1:] == [spelled([token]) for token in stock[0].tolist()]
    assert (generation.finish_reason, generation.tokens) == ("length", 12)
    assert generation.per_layer == (27, 27, 27, 20, 13, 6)
    held = sum(13 + n for n in generation.per_layer)
    assert generation.kv_cache_bytes == held * 2 * 2 * 8 * 4  # k and v, 2 heads of 8, float32
    assert generation.prefill_seconds > 0
    assert generation.seconds > 0


def test_an_ending_token_ends_and_is_not_text(ask: Any) -> None:
    whole, _ = ask(Sampling(12))
    tokens = [int(part) for part in whole.text[1:-1].split("><")]
    ending = next(t for i, t in enumerate(tokens) if i > 1 and t not in tokens[:i])
    at = tokens.index(ending)
    ended, _ = ask(Sampling(12), eos_ids=[ending, 100_000])
    assert ended.finish_reason == "stop"
    assert ended.text == spelled(tokens[:at])
    assert ended.tokens == at + 1
    exactly, _ = ask(Sampling(at + 1), eos_ids=[ending])
    assert exactly.finish_reason == "stop"
    short, _ = ask(Sampling(at), eos_ids=[ending])
    assert (short.finish_reason, short.text) == ("length", ended.text)


def test_sampling_follows_the_seed_alone(ask: Any) -> None:
    def drawn(seed: int, temperature: float = 1.5) -> str:
        text: str = ask(Sampling(16, temperature, seed))[0].text
        return text

    torch.manual_seed(1)
    first = drawn(7)
    torch.manual_seed(2)
    assert drawn(7) == first
    assert len({drawn(seed) for seed in range(5)}) == 5
    # Nearly no temperature is nearly greedy: the whole distribution is drawn from, sharpened.
    assert drawn(7, 1e-4) == ask(Sampling(16))[0].text


def test_every_token_can_be_drawn(ask: Any, qwen2: Any, make_prompt: MakePrompt) -> None:
    """No top-k and no nucleus, whatever a library or a checkpoint has for its default."""
    reads: list[Prefilled] = []
    prompt = make_prompt(40, range(6, 33))
    plan = Plan(prompt, PRUNES, 0, reads.append)
    qwen2.hosted(inputs_embeds=prompt.embeds, plan=plan, past_key_values=cache(qwen2.hosted))
    likely = reads[0].logits[0, 0].topk(50).indices.tolist()  # of 101; the library's own top-k
    first = [ask(Sampling(1, 1e4, seed))[0].text for seed in range(12)]
    assert not set(first) <= {spelled([token]) for token in likely}


def test_random_state_is_left_alone(ask: Any) -> None:
    before = torch.get_rng_state()
    ask(Sampling(4, 1.0, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_interrupt_comes_through_at_once(qwen2: Any, make_prompt: MakePrompt) -> None:
    pieces: list[str] = []

    def stop_at_three(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        generate(
            qwen2.hosted,
            spelled,
            make_prompt(40, range(6, 33)),
            PRUNES,
            Sampling(1000, 1.0),
            [],
            stop_at_three,
            lambda _: None,
        )
    assert len(pieces) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoints_own_habits_do_not_count(
    qwen2: Any, make_prompt: MakePrompt, caplog: pytest.LogCaptureFixture
) -> None:
    model = copy.deepcopy(qwen2.hosted)
    prompt = make_prompt(40, range(6, 33))

    def answer(sampling: Sampling) -> str:
        return generate(
            model, spelled, prompt, PRUNES, sampling, [100_000], lambda _: None, lambda _: None
        ).text

    greedy, hot = answer(Sampling(16)), answer(Sampling(16, 2.0, 5))
    habits = {"repetition_penalty": 5.0, "top_k": 1, "top_p": 0.01, "temperature": 0.01}
    for name, value in {**habits, "do_sample": True, "num_beams": 3, "max_length": 7}.items():
        setattr(model.generation_config, name, value)
    with caplog.at_level(logging.WARNING):
        assert answer(Sampling(16)) == greedy
        assert answer(Sampling(16, 2.0, 5)) == hot
    assert greedy != hot


def test_what_a_ragged_cache_cannot_do_is_refused(qwen2: Any, make_prompt: MakePrompt) -> None:
    model, prompt = qwen2.hosted, make_prompt(12, range(3, 9))
    plan = Plan(prompt, PRUNES)
    for more in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with pytest.raises(SettingError, match="2 sequences at once"):
            model.generate(inputs_embeds=prompt.embeds, plan=plan, max_new_tokens=3, **more)
    with pytest.raises(SettingError, match="3 sequences at once"):
        model(inputs_embeds=prompt.embeds.repeat(3, 1, 1), plan=plan, past_key_values=cache(model))
    with pytest.raises(SettingError, match="not a NoneType"):
        model(inputs_embeds=prompt.embeds, plan=plan)
    static = StaticCache(config=model.config, max_cache_len=20)
    with pytest.raises(SettingError, match="not a StaticCache"):
        model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=static)
    padded = torch.ones(1, 12)
    padded[0, 0] = 0
    with pytest.raises(SettingError, match="attention_mask with zeros"):
        model.generate(
            inputs_embeds=prompt.embeds, plan=plan, max_new_tokens=3, attention_mask=padded
        )
    read = cache(model)
    model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=read)
    with pytest.raises(SettingError, match="2 tokens at once"):
        model(input_ids=torch.tensor([[1, 2]]), plan=plan, past_key_values=read)


def cache(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_impossible_sampling_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong)).split("_")[0]):
        replace(Sampling(), **wrong)


def test_an_answer_may_be_stopped_between_two_tokens(
    ask: Any, qwen2: Any, make_prompt: MakePrompt
) -> None:
    whole, _ = ask(Sampling(12))
    prompt = make_prompt(40, range(6, 33))

    def stopped(after: int, eos_ids: Sequence[int] = ()) -> tuple[Generation, list[str]]:
        calls, pieces = iter(range(1, 100)), list[str]()
        generation = generate(
            qwen2.hosted,
            spelled,
            prompt,
            PRUNES,
            Sampling(12),
            eos_ids,
            pieces.append,
            lambda _: None,
            stop=lambda: next(calls) >= after,
        )
        return generation, pieces

    for after in (1, 3, 11):
        part, pieces = stopped(after)
        assert (part.finish_reason, part.tokens) == ("interrupted", after)
        assert part.text.count("<") == after
        assert whole.text.startswith(part.text)
        assert "".join(pieces) == part.text
        assert part.per_layer == whole.per_layer
    # Told to stop where it ends anyway: it has ended.
    assert stopped(12)[0].finish_reason == "length"
    third = int(whole.text.split("><")[2])
    assert stopped(3, (third,))[0].finish_reason == "stop"
    assert stopped(2, (third,))[0].finish_reason == "interrupted"
