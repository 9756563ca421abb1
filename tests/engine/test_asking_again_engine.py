"""A further question read on from what the first one left: as if it had been asked afresh."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.cost import Reused, llm_cost
from tokenreduce.engine.generate import generate
from tokenreduce.engine.stem import Stem, bytes_of
from tokenreduce.engine.types import Generation, Plan, Prefilled, Prompt, Prune, Sampling
from tokenreduce.methods import METHODS
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.ask_prune import AskPrune
from tokenreduce.methods.controls import Random
from tokenreduce.methods.fastv import FastV
from tokenreduce.methods.framefusion import FrameFusion
from tokenreduce.models.spec import TextSpec
from tokenreduce.schedule import Full, Once, Ramp, Steps
from tokenreduce.tokens import Tokens

VOCABULARY = 101
WITHIN = [name for name, kind in METHODS.items() if "llm" in kind().sites]
FRAMES, PITCH = 4, 12
N = FRAMES * PITCH


def asking(question: int, length: int = 7, before: int = 5, video: int = 0) -> Prompt:
    """A prompt of `before` + 48 visual + 3 (the time sentence) + `length` positions: those of one
    video begin alike, each question's own part differs."""

    def drawn(seed: int, count: int) -> Tensor:
        return torch.randn(1, count, 32, generator=torch.Generator().manual_seed(seed))

    frames = drawn(100, 3).repeat_interleave(16, dim=1) + 0.3 * drawn(1 + video, N)
    embeds = torch.cat([drawn(2, before), frames, drawn(3, 3), drawn(10 + question, length)], 1)
    at = torch.arange(before, before + N)
    return Prompt(embeds, at, Tokens.fresh(frames).bare(), Layout(FRAMES, 3, 3, "grid"))


@dataclass
class Reader:
    """Reads prompts with one model; `reads` is what became of each."""

    model: Any

    def __call__(
        self, prompt: Prompt, prunes: Sequence[Prune], stem: Stem | None = None
    ) -> Prefilled:
        reads: list[Prefilled] = []
        cache: Any = DynamicCache(config=self.model.config)
        plan = Plan(prompt, prunes, 5, reads.append, stem)
        self.model(inputs_embeds=prompt.embeds, past_key_values=cache, plan=plan)
        return reads[0]


def equal(again: Prefilled, afresh: Prefilled) -> None:
    """Logits and every key and value, of as many positions in each layer."""
    torch.testing.assert_close(again.logits, afresh.logits, rtol=0, atol=1e-5)
    assert again.per_layer == afresh.per_layer
    mine, theirs = ([(one.keys, one.values) for one in held(read)] for read in (again, afresh))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def held(read: Prefilled) -> list[Any]:
    return list(read.cache.layers)


def usual(name: str) -> Prune:
    method = METHODS[name]()
    assert method.usual is not None
    return Prune(method, method.usual)


CASES = {
    **{name: (usual(name),) for name in WITHIN},
    "nothing": (),
    "all kept": (Prune(AimPrune(), Full()),),
    "after layer 0": (Prune(AimPrune(), Once(Fraction(0), Fraction(1, 2))),),
    "after the last layer": (Prune(AimPrune(), Once(Fraction(5, 6), Fraction(1, 2))),),
    "none left": (Prune(FastV(), Once(Fraction(1, 3), Fraction(0))),),
    "in several layers": (
        Prune(AskPrune(), Steps((Fraction(1, 6), Fraction(1, 2), Fraction(5, 6)), Fraction(1, 2))),
    ),
    "two in one layer": (
        Prune(FrameFusion(), Once(Fraction(1, 3), Fraction(2, 3))),
        Prune(AimPrune(), Once(Fraction(1, 3), Fraction(1, 3))),
    ),
    "one after another": (
        Prune(Random(), Once(Fraction(1, 6), Fraction(2, 3))),
        Prune(AimPrune(), Ramp(Fraction(1, 2), Fraction(1))),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_further_question_is_as_asked_afresh(pair: Any, case: str) -> None:
    """Longer and shorter questions, the first once more, and one of a single position."""
    read, prunes = Reader(pair.hosted), CASES[case]
    first = read(asking(0), prunes, Stem()).stem
    assert first is not None
    latest: Stem | None = first
    logits = []
    for question, length in ((1, 7), (2, 19), (3, 2), (0, 7), (4, 1)):
        prompt = asking(question, length)
        afresh, again = read(prompt, prunes), read(prompt, prunes, first)
        equal(again, afresh)
        shared = 5 + N + 3 if question else 5 + N + 3 + length - 1
        assert again.reused == Reused(first.layers, shared)
        chained = read(prompt, prunes, latest)
        equal(chained, afresh)
        assert chained.reused.positions >= 5 + N + 3
        logits.append(again.logits)
        latest = chained.stem
    assert latest is not first
    assert all((one - logits[0]).abs().max() > 1e-3 for one in logits[1:])


@pytest.mark.parametrize("name", ["aim-prune", "ask-prune", "ficoco-l"])
def test_visual_tokens_may_begin_the_prompt(qwen2: Any, name: str) -> None:
    read, prunes = Reader(qwen2.hosted), (usual(name),)
    stem = read(asking(0, before=0), prunes, Stem()).stem
    again = read(asking(1, before=0), prunes, stem)
    equal(again, read(asking(1, before=0), prunes))
    assert again.reused.positions == N + 3


def test_what_is_chosen_depends_on_the_question(qwen2: Any, recorded: Any) -> None:
    """Else the tests above would say nothing about choosing afresh."""
    read = Reader(qwen2.hosted)
    spy = recorded(AskPrune())
    prunes = (Prune(spy, Once(Fraction(1, 3), Fraction(1, 4))),)
    stem = read(asking(0), prunes, Stem()).stem
    read(asking(1), prunes, stem)
    read(asking(1), prunes)
    first, again, afresh = spy.places
    assert first != again == afresh


def test_a_choice_sees_all_that_it_would_see_afresh(qwen2: Any, recorded: Any) -> None:
    read, spy = Reader(qwen2.hosted), recorded(AskPrune())
    prunes = (Prune(spy, Once(Fraction(1, 3), Fraction(1, 4))),)
    stem = read(asking(0), prunes, Stem()).stem
    read(asking(1), prunes, stem)
    read(asking(1), prunes)
    _, again, afresh = spy.seen
    for part in ("q", "k"):
        mine, theirs = getattr(again.attention, part), getattr(afresh.attention, part)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(again.tokens.x, afresh.tokens.x, rtol=0, atol=1e-5)
    assert torch.equal(again.entered(), afresh.entered())
    assert torch.equal(again.visual, afresh.visual)


def forwarded(model: Any, forward: Callable[[], Any]) -> list[int]:
    """How many positions each layer was given."""
    seen: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
        for layer in model.model.layers
    ]
    forward()
    for hook in hooks:
        hook.remove()
    return seen


def test_only_what_is_new_goes_through_the_first_layers(qwen2: Any) -> None:
    read = Reader(qwen2.hosted)
    prunes = (Prune(AskPrune(), Once(Fraction(1, 3), Fraction(1, 4))),)
    stem = read(asking(0), prunes, Stem()).stem
    again = forwarded(qwen2.hosted, lambda: read(asking(1, 9), prunes, stem))
    assert again == [9, 9, 9, *[5 + 12 + 3 + 9] * 3]
    kept_all = read(asking(0), (), Stem()).stem
    assert forwarded(qwen2.hosted, lambda: read(asking(1, 9), (), kept_all)) == [9] * 6


def test_a_stem_serves_other_methods_and_later_layers(qwen2: Any) -> None:
    """Of one video: what was kept does not depend on who chooses, nor on what is chosen later."""
    read = Reader(qwen2.hosted)
    stem = read(asking(0), (Prune(AskPrune(), Once(Fraction(1, 3), Fraction(1, 2))),), Stem()).stem
    for schedule in (
        Once(Fraction(1, 3), Fraction(0)),
        Once(Fraction(2, 3), Fraction(1, 4)),
        Full(),
    ):
        prunes = (Prune(AimPrune(), schedule),)
        again = read(asking(1), prunes, stem)
        equal(again, read(asking(1), prunes))
        assert again.reused == Reused(3, 5 + N + 3)
    earlier = (Prune(AimPrune(), Once(Fraction(1, 6), Fraction(1, 2))),)
    again = read(asking(1), earlier, stem)
    equal(again, read(asking(1), earlier))
    assert again.reused == Reused()
    # With nothing kept of a choice there is nothing to choose from.
    whole = read(asking(0), (), Stem()).stem
    assert read(asking(1), earlier, whole).reused == Reused()


def test_another_video_is_read_afresh(qwen2: Any) -> None:
    read, prunes = Reader(qwen2.hosted), CASES["aim-prune"]
    stem = read(asking(0), prunes, Stem()).stem
    other = asking(1, video=7)
    again = read(other, prunes, stem)
    equal(again, read(other, prunes))
    assert again.reused.positions == 5  # what is said before it
    assert again.stem is not None
    assert torch.equal(again.stem.embeds, other.embeds)  # type: ignore[arg-type]  # both have a stem, from above


def test_a_long_prompt_of_another_video_is_read_without_a_mask() -> None:
    embeds = torch.zeros(1, 3000, 4)
    stem = Stem(1 << 30, embeds)
    for same, taken in ((10, 0), (1499, 0), (1500, 1500), (2999, 2999)):
        other = embeds.clone()
        other[:, same:] = 1
        assert stem.shared(other, None) == taken
    assert stem.shared(torch.ones(1, 3000, 4), None) == 0


def test_a_prompt_that_shares_some_of_the_video_only(qwen2: Any) -> None:
    """Right as well, whatever is shared."""
    read, prunes = Reader(qwen2.hosted), CASES["aim-prune"]
    stem = read(asking(0), prunes, Stem()).stem
    prompt = asking(1)
    prompt.embeds[:, 45] += 1
    again = read(prompt, prunes, stem)
    equal(again, read(prompt, prunes))
    assert again.reused.positions == 45


def test_other_precisions_and_widths_are_not_confused(qwen2: Any) -> None:
    prunes = CASES["aim-prune"]
    stem = Reader(qwen2.hosted)(asking(0), prunes, Stem()).stem
    assert stem is not None
    half = asking(1).embeds.bfloat16()
    assert stem.shared(half, 3) == 0
    assert stem.shared(asking(1).embeds[:, :, :16], 3) == 0
    assert stem.shared(asking(1).embeds, 3) == 5 + N + 3


def test_half_precision_as_well(qwen2: Any) -> None:
    """Not to the bit: its kernels round differently for fewer rows."""
    model = copy.deepcopy(qwen2.hosted).bfloat16()
    read, prunes = Reader(model), (Prune(Random(), Once(Fraction(1, 3), Fraction(1, 4))),)

    def halved(question: int) -> Prompt:
        return replace(asking(question), embeds=asking(question).embeds.bfloat16())

    stem = read(halved(0), prunes, Stem()).stem
    again, afresh = read(halved(1), prunes, stem), read(halved(1), prunes)
    assert again.reused.positions == 5 + N + 3
    apart = (again.logits - afresh.logits).float().norm() / afresh.logits.float().norm()
    assert apart < 0.03


def test_a_stem_says_how_much_it_holds_and_keeps_to_its_limit(qwen2: Any) -> None:
    read = Reader(qwen2.hosted)
    prunes = (Prune(AskPrune(), Once(Fraction(1, 3), Fraction(1, 4))),)
    stem = read(asking(0), prunes, Stem()).stem
    assert stem is not None
    length = 5 + N + 3 + 7
    keys_and_values = 3 * 2 * (2 * 8) * length  # 3 layers, 2 heads of 8
    hidden, queries = 32 * length, 4 * 8 * length
    assert stem.nbytes == 4 * (keys_and_values + 3 * hidden + queries)
    assert (stem.layers, stem.positions) == (3, length)
    assert Stem().nbytes == 0
    exactly = read(asking(0), prunes, Stem(stem.nbytes)).stem
    assert exactly is not None
    assert exactly.nbytes == stem.nbytes
    for kept in (prunes, ()):
        tight = read(asking(0), kept, Stem(stem.nbytes - 1)).stem
        assert tight == Stem(stem.nbytes - 1)
        equal(read(asking(1), kept, tight), read(asking(1), kept))


def test_memory_that_is_shared_counts_once() -> None:
    whole = torch.zeros(10)
    assert bytes_of([whole, whole[2:], whole[:5], torch.zeros(3)]) == 52


def test_little_that_is_new_is_not_kept_anew(qwen2: Any) -> None:
    """The old stem does, and stands in memory once."""
    read, prunes = Reader(qwen2.hosted), CASES["aim-prune"]
    stem = read(asking(0), prunes, Stem()).stem
    assert read(asking(1, 5), prunes, stem).stem is stem
    # What is said in a conversation grows: it is kept as soon as it is worth it.
    grown = read(asking(1, 30), prunes, stem).stem
    assert grown is not stem
    assert grown is not None
    assert grown.positions == 5 + N + 3 + 30
    again = read(asking(1, 34), prunes, grown)
    equal(again, read(asking(1, 34), prunes))
    assert again.reused.positions >= 5 + N + 3


def spelled(ids: list[int]) -> str:
    return "".join(f"<{token}>" for token in ids)


@pytest.fixture
def ask(qwen2: Any) -> Callable[..., Generation]:
    def ask(prompt: Prompt, prunes: Sequence[Prune], stem: Stem | None = None) -> Generation:
        nothing: Callable[[Any], None] = lambda _: None  # noqa: E731
        return generate(
            qwen2.hosted, spelled, prompt, prunes, Sampling(24), (), nothing, nothing, stem=stem
        )

    return ask


@pytest.mark.parametrize("case", ["aim-prune", "ask-prune", "nothing", "after layer 0"])
def test_answers_leave_no_trace_in_the_stem(ask: Callable[..., Generation], case: str) -> None:
    """24 tokens are generated on top of each prompt; three questions in a row, twice."""
    prunes = CASES[case]
    afresh = [ask(asking(question), prunes) for question in range(3)]
    assert len({one.text for one in afresh}) == 3
    stem: Stem | None = Stem()
    for question in (0, 1, 2, 1, 0):
        made = ask(asking(question), prunes, stem)
        assert made.text == afresh[question].text
        assert made.kv_cache_bytes == afresh[question].kv_cache_bytes
        stem = made.stem
    assert stem is not None
    assert stem.positions == 5 + N + 3 + 7
    before = stem.keys[0].clone()
    ask(asking(1), prunes, stem)
    assert torch.equal(stem.keys[0], before)


def test_without_a_stem_nothing_is_kept(ask: Callable[..., Generation]) -> None:
    made = ask(asking(0), CASES["aim-prune"])
    assert made.stem is None
    assert made.reused == Reused()


@pytest.mark.parametrize("case", ["nothing", "in several layers", "after layer 0"])
def test_what_was_computed_is_what_is_charged(qwen2: Any, case: str) -> None:
    """Matrix products, as torch counts them, but for those that choosing makes."""
    read = Reader(qwen2.hosted)
    prunes = tuple(Prune(Random(), prune.schedule) for prune in CASES[case])
    stem = read(asking(0), prunes, Stem()).stem
    spec = TextSpec(6, 32, 48, 4, 2, 8, VOCABULARY, 4096)
    for kept in (None, stem):
        # A fused kernel is counted by rules of its own.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
            made = read(asking(1, 9), prunes, kept)
        charged = llm_cost(spec, made.per_layer, 5 + 3 + 9, reused=made.reused).matmul
        # Twice a product of width x vocabulary is what torch counts; the paper charges one.
        wanted = charged + spec.width * spec.vocab
        assert wanted == pytest.approx(counted.get_total_flops(), rel=0.01)
