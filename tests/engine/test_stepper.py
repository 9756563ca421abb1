"""Tokens decoded over a cache of slots, and from recorded steps: those of stock generate."""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import repeat
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from tokenreduce.engine.generate import generate
from tokenreduce.engine.graphs import Recorder, Step
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.stepper import Stepper
from tokenreduce.engine.types import Generation, Plan, Prompt, Prune, Sampling, Way
from tokenreduce.errors import SettingError
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.result import Decoding
from tokenreduce.schedule import Full, Once, Ramp

MakePrompt = Callable[..., Prompt]
RAMP = (Prune(AimPrune(), Ramp(Fraction(1, 3), Fraction(1))),)
LAYOUTS: dict[str, Sequence[Prune]] = {
    "ragged": RAMP,
    "even": (),
    "text alone at the end": (Prune(AimPrune(), Once(Fraction(1, 2), Fraction(0))),),
    "after layer 0": (Prune(AimPrune(), Once(Fraction(0), Fraction(1, 4))),),
    "after the last": (Prune(AimPrune(), Once(Fraction(5, 6), Fraction(1, 2))),),
    "all kept": (Prune(AimPrune(), Full()),),
}


class Tape(TorchDispatchMode):
    """What a graph is, on a CPU: every operation with the very tensors it had and the numbers that
    were Python's when it was recorded, done again in order into the very results it had."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def again(self) -> None:
        for func, args, kwargs, out in self.done:
            new = func(*args, **kwargs)
            for mine, theirs in zip(_tensors(out), _tensors(new), strict=True):
                if mine.data_ptr() != theirs.data_ptr():
                    mine.copy_(theirs)


def _tensors(out: Any) -> list[Tensor]:
    parts = out if isinstance(out, tuple | list) else [out]
    return [part for part in parts if isinstance(part, Tensor) and part.numel()]


class Taped:
    """A recorder without a device; `broken`: which recordings raise."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.broken, self.ran, self.recorded, self.replayed = broken, 0, 0, 0

    def run(self, step: Step) -> Tensor:
        self.ran += 1
        return step()

    def record(self, step: Step) -> Step:
        self.recorded += 1
        tape = Tape()
        with tape:
            out = step()
            if self.recorded in self.broken:
                raise RuntimeError("operation not permitted when stream is capturing\nhelp: none")

        def replay() -> Tensor:
            self.replayed += 1
            tape.again()
            return out

        out.fill_(float("nan"))  # recording computes nothing
        return replay


def spelled(ids: list[int]) -> str:
    return "".join(f"<{token}>" for token in ids)


def nothing(_: Any) -> None:
    pass


@pytest.fixture
def using(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """using(recorder, slots): as if the machine had a device with that recorder."""

    def use(recorder: Recorder | None, slots: int = 8) -> None:
        def fake(model: Any, way: Way, device: Any) -> tuple[Stepper | None, str]:
            return (None, "") if way == "stock" else (Stepper(recorder, "", slots), "")

        # `generate` the function hides `generate` the module.
        module = importlib.import_module("tokenreduce.engine.generate")
        monkeypatch.setattr(module, "chosen", fake)

    return use


def answer(
    model: Any,
    prompt: Prompt,
    prunes: Sequence[Prune] = RAMP,
    sampling: Sampling | None = None,
    way: Way = "auto",
    eos_ids: Sequence[int] = (),
    **more: Any,
) -> Generation:
    drawn = sampling or Sampling(24)
    return generate(
        model, spelled, prompt, prunes, drawn, eos_ids, nothing, nothing, way=way, **more
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slots_give_the_tokens_of_stock(pair: Any, make_prompt: MakePrompt, layout: str) -> None:
    prompt, prunes = make_prompt(40, range(6, 33)), LAYOUTS[layout]
    for sampling in (Sampling(24), Sampling(24, 1.5, 7)):
        stock = answer(pair.hosted, prompt, prunes, sampling, "stock")
        slots = answer(pair.hosted, prompt, prunes, sampling, "slots")
        assert slots.text == stock.text
        assert slots.per_layer == stock.per_layer
        assert slots.kv_cache_bytes == stock.kv_cache_bytes
        assert (stock.decoding, slots.decoding.road) == (Decoding(), "slots")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_steps_give_the_tokens_of_stock(
    pair: Any, make_prompt: MakePrompt, using: Callable[..., None], layout: str
) -> None:
    """24 tokens over 8 slots: grown twice, recorded three times."""
    prompt, prunes, tape = make_prompt(40, range(6, 33)), LAYOUTS[layout], Taped()
    using(tape)
    for sampling in (Sampling(24), Sampling(24, 1.5, 7)):
        stock = answer(pair.hosted, prompt, prunes, sampling, "stock")
        graphs = answer(pair.hosted, prompt, prunes, sampling)
        assert graphs.text == stock.text
        assert (graphs.decoding.road, graphs.decoding.recordings) == ("graphs", 3)
    assert (tape.ran, tape.recorded, tape.replayed) == (6, 6, 2 * (23 - 3))


def test_each_step_is_as_exact_as_the_order_of_a_sum(pair: Any, make_prompt: MakePrompt) -> None:
    """Logits step by step, so that a near tie hides nothing; also without position ids."""
    prompt, model, logits = make_prompt(40, range(6, 33)), pair.hosted, []
    for steps in (None, Stepper(slots=5), Stepper(Taped(), slots=5)):
        plan, mine = Plan(prompt, RAMP, steps=steps), list[Tensor]()
        out = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=empty(model))
        for token in range(17):
            out = model(
                input_ids=torch.tensor([[token]]), plan=plan, past_key_values=out.past_key_values
            )
            mine.append(out.logits)
        assert out.past_key_values.get_seq_length() == 40 + 17
        logits.append(torch.cat(mine))
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(logits[2], logits[1], rtol=0, atol=0)


def empty(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config)


def test_a_step_that_cannot_be_recorded_is_computed(
    qwen2: Any, make_prompt: MakePrompt, using: Callable[..., None]
) -> None:
    """At once, or where the slots are laid out again; the tokens are the same and the result says
    what stood in the way."""
    prompt = make_prompt(40, range(6, 33))
    stock = answer(qwen2.hosted, prompt, way="stock")
    reason = "no CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    for broken, road in ((1, "slots"), (2, "graphs")):
        tape = Taped((broken,))
        using(tape)
        made = answer(qwen2.hosted, prompt)
        assert made.text == stock.text
        assert (made.decoding.road, made.decoding.because) == (road, reason)
        assert (tape.recorded, made.decoding.recordings) == (broken, broken - 1)


def test_a_short_answer_records_nothing(
    qwen2: Any, make_prompt: MakePrompt, using: Callable[..., None]
) -> None:
    """One token comes from the prompt, the next is computed: only a third would be replayed."""
    prompt, tape = make_prompt(40, range(6, 33)), Taped()
    using(tape)
    roads = [answer(qwen2.hosted, prompt, RAMP, Sampling(n)).decoding.road for n in (1, 2, 3)]
    assert roads == ["stock", "slots", "graphs"]
    assert tape.recorded == 1


def test_endings_and_interruptions_are_stock(
    qwen2: Any, make_prompt: MakePrompt, using: Callable[..., None]
) -> None:
    prompt = make_prompt(40, range(6, 33))
    using(Taped())
    whole = answer(qwen2.hosted, prompt, way="stock").text
    tokens = [int(part) for part in whole[1:-1].split("><")]
    ending = next(t for i, t in enumerate(tokens) if i > 10 and t not in tokens[:i])
    for way in ("stock", "auto"):
        ended = answer(qwen2.hosted, prompt, way=way, eos_ids=[ending])
        assert (ended.finish_reason, ended.text) == ("stop", spelled(tokens[: ended.tokens - 1]))
        assert ended.tokens == tokens.index(ending) + 1
        calls = repeat(False, 10)
        stopped = answer(qwen2.hosted, prompt, way=way, stop=partial(next, calls, True))
        assert (stopped.finish_reason, stopped.text) == ("interrupted", spelled(tokens[:11]))
    pieces: list[str] = []

    def interrupt(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 12:
            raise KeyboardInterrupt

    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        generate(
            qwen2.hosted, spelled, prompt, RAMP, Sampling(99, 1.0), (), interrupt, nothing
        )  # fmt: skip
    assert len(pieces) == 12
    assert torch.equal(torch.get_rng_state(), before)


def test_asking_again_reads_on_from_what_slots_left_alone(
    qwen2: Any, make_prompt: MakePrompt, using: Callable[..., None]
) -> None:
    prompt = make_prompt(40, range(6, 33))
    using(Taped())
    stock = answer(qwen2.hosted, prompt, way="stock")
    stem: Stem | None = Stem()
    for _ in range(3):
        made = answer(qwen2.hosted, prompt, stem=stem)
        assert made.text == stock.text
        stem = made.stem
    assert made.reused.positions == 39


def test_a_stepper_refuses_a_cache_that_it_did_not_make(
    qwen2: Any, make_prompt: MakePrompt
) -> None:
    """A graph knows the places of one cache: it would answer another question."""
    prompt, model = make_prompt(40, range(6, 33)), qwen2.hosted
    caches = []
    for _ in range(2):
        plan = Plan(prompt, RAMP, steps=Stepper(Taped()))
        out = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=empty(model))
        caches.append(step(model, plan, out.past_key_values))
    with pytest.raises(ValueError, match="the stepper that made it"):
        step(model, plan, caches[0])
    with pytest.raises(SettingError, match="not a SlotCache"):
        step(model, Plan(prompt, RAMP), caches[1])
    with pytest.raises(SettingError, match="2 tokens at once"):
        model(input_ids=torch.tensor([[1, 2]]), plan=plan, past_key_values=caches[1])


def step(model: Any, plan: Plan, cache: Any) -> Any:
    out = model(input_ids=torch.tensor([[1]]), plan=plan, past_key_values=cache)
    return out.past_key_values


def test_a_token_may_come_as_its_embedding_and_with_its_position(
    qwen2: Any, make_prompt: MakePrompt
) -> None:
    prompt, model, found = make_prompt(40, range(6, 33)), qwen2.hosted, []
    token = torch.tensor([[7]])
    embeds = model.get_input_embeddings()(token)
    for given in (
        {"input_ids": token},
        {"inputs_embeds": embeds},
        {"inputs_embeds": embeds, "position_ids": torch.tensor([[40]])},
        {"inputs_embeds": embeds, "position_ids": torch.tensor([[46]])},
    ):
        plan = Plan(prompt, RAMP, steps=Stepper())
        out = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=empty(model))
        found.append(model(plan=plan, past_key_values=out.past_key_values, **given).logits)
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])
    assert not torch.allclose(found[3], found[0], atol=1e-3)


def test_no_memory_waits_to_be_collected(qwen2: Any, make_prompt: MakePrompt) -> None:
    prompt, model = make_prompt(40, range(6, 33)), qwen2.hosted
    plan = Plan(prompt, RAMP, steps=Stepper(Taped()))
    gc.collect()
    gc.disable()
    try:
        out = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=empty(model))
        cache = step(model, plan, step(model, plan, out.past_key_values))
        held = weakref.ref(cache.layers[0].keys)
        del plan, out, cache
        assert held() is None
    finally:
        gc.enable()


def test_text_layers_cost_what_their_length_says(qwen2: Any, make_prompt: MakePrompt) -> None:
    """Products of one step, as torch counts them: less than with all layers as long as the
    first, by what the missing keys would cost."""
    prompt, model = make_prompt(400, range(6, 393)), qwen2.hosted
    flops = []
    for layout in ("even", "text alone at the end"):
        plan = Plan(prompt, LAYOUTS[layout], steps=Stepper(slots=16))
        out = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=empty(model))
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
            step(model, plan, out.past_key_values)
        flops.append(counted.get_total_flops())
    text, whole = 32, 416  # 13 and 400 after 16 slots, to the next 16
    layers_of_text, heads, width = 2, 4, 8
    assert flops[0] - flops[1] == layers_of_text * 2 * 2 * heads * width * (whole - text)
