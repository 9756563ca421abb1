"""Tokens decoded over a cache of slots, and from recorded steps: those of stock generate."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from tokenreduce.engine.generate import generate
from tokenreduce.engine.graphs import Recorder, Step
from tokenreduce.engine.stepper import Stepper
from tokenreduce.engine.types import Decoding, Generation, Plan, Prompt, Prune, Sampling, Way
from tokenreduce.methods.aim_prune import AimPrune
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
