"""The prefill: keeping all is the stock forward bit for bit, removing is masking."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce.engine import attention, prefill
from tokenreduce.engine.host import prepare
from tokenreduce.engine.state import start
from tokenreduce.engine.types import Plan, Prompt, Prune
from tokenreduce.errors import ModelError
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.controls import Random
from tokenreduce.paradigm import Site
from tokenreduce.schedule import Full, Once, Ramp, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import at_once, nowhere
from tokenreduce.tokens import Affinity, Split, Tokens

MakePrompt = Callable[..., Prompt]


def plan_of(prompt: Prompt, *prunes: Prune) -> Plan:
    return Plan(prompt, prunes)


def inputs_of_layers(model: Any, forward: Callable[[], Any]) -> list[Tensor]:
    """What each layer was given, and what the last one gave."""
    seen: list[Tensor] = []
    layers = model.model.layers
    hooks = [layer.register_forward_pre_hook(lambda _, a: seen.append(a[0])) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(lambda *a: seen.append(a[2])))
    forward()
    for hook in hooks:
        hook.remove()
    return seen


def lengths(cache: DynamicCache) -> list[int]:
    return [cache.get_seq_length(i) for i in range(len(cache.layers))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prunes", [(), (Prune(AimPrune(), Full()),)], ids=["none", "full"])
def test_keeping_all_is_the_stock_forward_bit_for_bit(
    pair: Any, make_prompt: MakePrompt, prunes: tuple[Prune, ...], dtype: torch.dtype
) -> None:
    stock, hosted = (copy.deepcopy(m).to(dtype) for m in (pair.stock, pair.hosted))
    assert stock.config._attn_implementation == "sdpa"
    prompt = make_prompt(40, range(6, 33))
    prompt = replace(prompt, embeds=prompt.embeds.to(dtype))
    theirs: Any = DynamicCache(config=stock.config)
    ours: Any = DynamicCache(config=hosted.config)
    plan = plan_of(prompt, *prunes)

    logits: dict[str, Tensor] = {}

    def stock_forward() -> None:
        out = stock(inputs_embeds=prompt.embeds, past_key_values=theirs, logits_to_keep=1)
        logits["stock"] = out.logits

    def our_forward() -> None:
        out = hosted(inputs_embeds=prompt.embeds, past_key_values=ours, plan=plan)
        logits["ours"] = out.logits

    expected = inputs_of_layers(stock, stock_forward)
    hidden = inputs_of_layers(hosted, our_forward)
    assert len(expected) == len(hidden) == 7
    assert all(torch.equal(a, b) for a, b in zip(hidden, expected, strict=True))
    assert torch.equal(logits["ours"], logits["stock"])
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)


def test_keeping_all_generates_the_stock_tokens(pair: Any, make_prompt: MakePrompt) -> None:
    prompt = make_prompt(40, range(6, 33))
    wanted = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    plain = pair.stock.generate(inputs_embeds=prompt.embeds, **wanted)
    ours = pair.hosted.generate(
        inputs_embeds=prompt.embeds, plan=plan_of(prompt, Prune(AimPrune(), Full())), **wanted
    )
    assert plain.shape == (1, 20)
    assert torch.equal(ours, plain)


def seen_by_layers(schedule: Schedule, depth: int, prompt: Prompt, left: list[list[int]]) -> Tensor:
    """(depth, l) bool: what each layer can see, given the places left by each reduction."""
    n, queue = prompt.visual.shape[0], list(left)
    sees = torch.ones(depth, prompt.embeds.shape[1], dtype=torch.bool)
    kept = list(range(n))
    for i in range(depth - 1):
        if schedule.kept(i, depth, n) < len(kept):
            kept = queue.pop(0)
        sees[i + 1, prompt.visual] = False
        sees[i + 1, prompt.visual[kept]] = True
    return sees


CHUNK, CHUNKS = range(6, 33), [*range(2, 9), *range(12, 30), 34]


@pytest.mark.parametrize(
    ("schedule", "visual", "method"),
    [
        (Ramp(), CHUNK, AimPrune()),
        (Ramp(), CHUNKS, Random()),
        (Ramp(Fraction(0), Fraction(1)), CHUNKS, AimPrune()),
        (Ramp(Fraction(1, 3), Fraction(3, 2)), CHUNK, Random()),
        (Once(Fraction(0), Fraction(1, 4)), CHUNK, AimPrune()),
        (Once(Fraction(1, 2), Fraction(0)), CHUNKS, AimPrune()),
    ],
)
def test_removing_is_masking_also_while_decoding(
    pair: Any,
    make_prompt: MakePrompt,
    recorded: Any,
    masked: Any,
    schedule: Schedule,
    visual: Any,
    method: Any,
) -> None:
    prompt, spy, steps = make_prompt(40, visual), recorded(method), 13
    out = pair.hosted.generate(
        inputs_embeds=prompt.embeds,
        plan=plan_of(prompt, Prune(spy, schedule)),
        max_new_tokens=steps,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    reference = masked(pair.stock, seen_by_layers(schedule, 6, prompt, spy.places))
    embedded = pair.stock.model.embed_tokens(out.sequences)
    whole = reference(torch.cat([prompt.embeds, embedded], dim=1))[0, 39:-1]
    torch.testing.assert_close(torch.cat(out.logits), whole, rtol=1e-4, atol=1e-4)
    assert spy.places  # something was removed, and it mattered
    plain = pair.stock(inputs_embeds=prompt.embeds, logits_to_keep=1).logits[0]
    assert (out.logits[0] - plain).abs().max() > 1e-2
    # The first answered token makes every layer's cache grow by one, and so on.
    expected = [int(row.sum()) + steps - 1 for row in reference.sees]
    assert lengths(out.past_key_values) == expected


def test_the_cache_holds_what_each_layer_attended_to(qwen2: Any, make_prompt: MakePrompt) -> None:
    prompt, cache = make_prompt(40, range(6, 33)), DynamicCache(config=qwen2.hosted.config)
    prune = Prune(AimPrune(), Ramp(Fraction(1, 3), Fraction(1)))
    state = prefill.run(qwen2.hosted.model, start(prompt), cache, [prune])
    assert state.per_layer == (27, 27, 27, 20, 13, 6)
    assert lengths(cache) == [13 + n for n in state.per_layer]
    assert state.visual.shape == (0,)
    text = [*range(6), *range(33, 40)]
    assert state.position.tolist() == text
    values = sum(13 + n for n in state.per_layer) * 2 * (2 * 8)  # keys and values, 2 heads of 8
    assert prefill.cache_bytes(cache) == 4 * values


@pytest.mark.parametrize(
    ("length", "visual"), [(3, [1]), (2, [0]), (3, []), (1, []), (9, [0, 2, 4, 6])]
)
def test_hardly_any_tokens(
    qwen2: Any, make_prompt: MakePrompt, length: int, visual: list[int]
) -> None:
    prompt = make_prompt(length, visual)
    plan = plan_of(prompt, Prune(AimPrune(), Ramp(Fraction(0), Fraction(1, 2))))
    out = qwen2.hosted.generate(
        inputs_embeds=prompt.embeds, plan=plan, max_new_tokens=3, do_sample=False, pad_token_id=0
    )
    assert out.shape == (1, 3)
    if not visual:
        plain = qwen2.stock.generate(
            inputs_embeds=prompt.embeds, max_new_tokens=3, do_sample=False, pad_token_id=0
        )
        assert torch.equal(out, plain)


def test_two_methods_prune_after_each_other(
    qwen2: Any, make_prompt: MakePrompt, recorded: Any
) -> None:
    """The second sees the layer's attention among what the first left."""
    prompt = make_prompt(40, range(6, 33))
    cache: Any = DynamicCache(config=qwen2.hosted.config)
    first, second = recorded(Random()), recorded(AimPrune())
    prunes = [
        Prune(first, Once(Fraction(1, 3), Fraction(2, 3))),
        Prune(second, Once(Fraction(1, 3), Fraction(1, 3))),
    ]
    state = prefill.run(qwen2.hosted.model, start(prompt), cache, prunes)
    assert state.per_layer == (27, 27, 27, 9, 9, 9)
    assert [len(places) for places in first.places + second.places] == [18, 9]
    assert set(second.places[0]) < set(first.places[0])
    (seen,) = second.seen
    assert seen.attention.q.shape == (1, 4, 13 + 18, 8)
    assert seen.attention.k.shape == (1, 2, 13 + 18, 8)
    left = [*range(6), *(6 + place for place in first.places[0]), *range(33, 40)]
    assert torch.equal(seen.attention.k, cache.layers[2].keys[:, :, left])
    assert [left[i] - 6 for i in seen.visual.tolist()] == first.places[0]


@dataclass(frozen=True)
class Averaging:
    """Keeps the first tokens and gives each the mean of all: a method that changes values."""

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})

    def rounds(self, n: int, keep: int) -> tuple[int, ...]:
        return (keep,)

    def filter(self, seen: Seen, keep: int) -> Split:
        return Split.of_keep(torch.arange(keep).unsqueeze(0), seen.tokens.count)

    correlate = staticmethod(nowhere)
    work = staticmethod(at_once)
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = None

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        mean = seen.tokens.x.mean(dim=1, keepdim=True)
        return seen.tokens.take(split.keep).with_x(mean.expand(-1, split.keep.shape[1], -1))


def test_a_method_may_change_the_tokens_it_keeps(qwen2: Any, make_prompt: MakePrompt) -> None:
    prompt, model = make_prompt(20, range(4, 14)), qwen2.hosted.model
    prune = Prune(Averaging(), Once(Fraction(0), Fraction(3, 10)))
    cache = DynamicCache(config=model.config)
    before = prefill.run(model, start(prompt), cache, stop=1).hidden
    cache = DynamicCache(config=model.config)
    after = prefill.run(model, start(prompt), cache, [prune], stop=1).hidden
    mean = before[:, 4:14].mean(dim=1, keepdim=True)
    expected = torch.cat([before[:, :4], mean.expand(1, 3, -1), before[:, 14:]], dim=1)
    assert torch.equal(after, expected)


def test_a_saved_state_is_run_on_from(qwen2: Any, make_prompt: MakePrompt) -> None:
    prompt, model = make_prompt(40, range(6, 33)), qwen2.hosted.model
    prunes = [Prune(AimPrune(), Ramp(Fraction(1, 6), Fraction(1)))]
    whole_cache = DynamicCache(config=model.config)
    whole = prefill.run(model, start(prompt), whole_cache, prunes)
    for stop in (0, 1, 4, 6):
        cache = DynamicCache(config=model.config)
        saved = prefill.run(model, start(prompt), cache, prunes, stop=stop)
        assert saved.layer == stop
        state = prefill.run(model, saved, cache, prunes)
        torch.testing.assert_close(state.hidden, whole.hidden, rtol=0, atol=0)
        assert state.per_layer == whole.per_layer
        assert lengths(cache) == lengths(whole_cache)


def test_no_square_of_the_length_is_ever_made(
    paired: Callable[..., Any], make_prompt: MakePrompt, largest_tensor: Any
) -> None:
    model = paired("qwen2", num_hidden_layers=2).hosted.model
    prompt, cache = make_prompt(3000, range(5, 2990)), DynamicCache(config=model.config)
    prune = Prune(AimPrune(), Once(Fraction(0), Fraction(1, 2)))
    with largest_tensor() as largest:
        state = prefill.run(model, start(prompt), cache, [prune])
    assert state.per_layer == (2985, 1492)
    assert 0 < largest.numel < 3000 * 3000 / 4


def test_a_prompt_that_contradicts_itself_is_refused(make_prompt: MakePrompt) -> None:
    with pytest.raises(ValueError, match="ends with text"):
        start(make_prompt(5, [2, 4]))
    prompt = make_prompt(6, [2, 3])
    with pytest.raises(ValueError, match="1 rows of 1 visual tokens"):
        start(replace(prompt, tokens=Tokens.fresh(prompt.embeds[:, :1])))
    with pytest.raises(ValueError, match="2 prompts"):
        start(replace(prompt, embeds=prompt.embeds.repeat(2, 1, 1)))


@dataclass(frozen=True)
class Inventing(Averaging):
    """Says that its tokens came from places that it never saw."""

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        kept = seen.tokens.take(split.keep)
        return replace(kept, place=kept.place + 1000)


def test_invented_places_are_refused(qwen2: Any, make_prompt: MakePrompt) -> None:
    prune = Prune(Inventing(), Once(Fraction(0), Fraction(1, 2)))
    cache = DynamicCache(config=qwen2.hosted.config)
    state = start(make_prompt(9, range(2, 7)))
    with pytest.raises(ValueError, match="places that it was not given"):
        prefill.run(qwen2.hosted.model, state, cache, [prune])


def test_a_model_that_was_not_prepared_is_named(qwen2: Any, make_prompt: MakePrompt) -> None:
    model = copy.deepcopy(qwen2.stock).model
    cache, state = DynamicCache(config=model.config), start(make_prompt(9, range(2, 7)))
    prune = Prune(AimPrune(), Once(Fraction(0), Fraction(1, 2)))
    with pytest.raises(ModelError, match=r"layer 0 was seen 0 times.*make_observable"):
        prefill.run(model, state, cache, [prune])


class OldLayer(nn.Module):
    """A layer of a transformers that knows no position_embeddings and passes nothing on."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, use_cache: bool) -> Tensor:
        return hidden_states


def test_layers_of_another_transformers_are_refused(qwen2: Any) -> None:
    model = copy.deepcopy(qwen2.stock)
    model.model.layers = nn.ModuleList([OldLayer()])
    with pytest.raises(
        ModelError, match=r"OldLayer .* past_key_values, position_embeddings, \*\*kwargs: install"
    ):
        prepare(model)


class TupleLayer(nn.Module):
    """A layer that returns what layers returned before transformers 5."""

    def forward(self, hidden: Tensor, **kwargs: Any) -> tuple[Tensor]:
        return (hidden,)


def test_layers_that_return_tuples_are_refused(qwen2: Any, make_prompt: MakePrompt) -> None:
    model = copy.deepcopy(qwen2.hosted)
    model.model.layers[0] = TupleLayer()
    state = start(make_prompt(5, [1]))
    with pytest.raises(ModelError, match="TupleLayer returned tuple"):
        prefill.run(model.model, state, DynamicCache(config=model.config))


def test_sliding_windows_are_refused(paired: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="sliding_attention"):
        paired("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2)


def test_registering_twice_changes_nothing() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    attention.register()
    names = AttentionInterface().valid_keys(), AttentionMaskInterface().valid_keys()
    attention.register()
    assert (AttentionInterface().valid_keys(), AttentionMaskInterface().valid_keys()) == names
    assert attention.NAME in names[0]
    assert attention.NAME in names[1]
