"""The contract that every method keeps, over the registry: a new one is tested for free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.methods import METHODS
from tokenreduce.methods.evit import EViT
from tokenreduce.paradigm import Method, Site, reduce
from tokenreduce.preset import Stage
from tokenreduce.seen import Evidence, Seen
from tokenreduce.tokens import Attention, Tokens
from tokenreduce.work import Sizes

SITES: list[Site] = ["encoder", "frames", "clip", "llm"]
CASES = [
    pytest.param(name, site, id=f"{name}-{site}")
    for name, kind in METHODS.items()
    for site in SITES
    if site in kind().sites
]
TEXT, FRAMES = 5, 3


def seen(site: Site, n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Seen:
    """Random tokens as a method meets them at `site`: frames of one row of tokens; inside the
    encoder with a class token, inside the LLM between five text positions."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    rows = 1 if site in ("clip", "llm") else 3
    tokens = Tokens.fresh(drawn(rows, n, 16))
    frames = FRAMES if rows == 1 and n % FRAMES == 0 else 1
    grid = Layout(frames, 1, n // frames)
    if site in ("frames", "clip"):
        pairs = drawn(rows, n, n).float().softmax(dim=-1)
        evidence = Evidence(
            drawn(rows, n).float().softmax(dim=-1), drawn(rows, n, 4, 8).float(), pairs
        )
        return Seen(tokens, tokens.x, grid, evidence=evidence, seed=5)
    before = 1 if site == "encoder" else 2
    length = n + (1 if site == "encoder" else TEXT)
    q, k = drawn(rows, 4, length, 8), drawn(rows, 4 if site == "encoder" else 2, length, 8)
    visual = torch.arange(before, n + before)
    attention = Attention(q, k, 8**-0.5, site == "llm")
    return Seen(tokens, tokens.x, grid, visual, attention, seed=5, depth=(1, 4))


def made(name: str) -> Method:
    return METHODS[name]()


@pytest.mark.parametrize(("name", "site"), CASES)
@pytest.mark.parametrize(
    ("n", "keep"), [(36, 18), (36, 5), (36, 1), (7, 6), (7, 3), (2, 1), (49, 48)]
)
def test_count_order_and_places(name: str, site: Site, n: int, keep: int) -> None:
    before = seen(site, n)
    after = reduce(made(name), before, keep)
    assert after.count == keep
    assert (after.place.diff(dim=1) > 0).all()
    assert (after.place >= 0).all()
    assert (after.place < n).all()
    assert torch.isfinite(after.x).all()
    assert after.x.dtype == before.tokens.x.dtype


@pytest.mark.parametrize(("name", "site"), CASES)
def test_enough_budget_changes_nothing(name: str, site: Site) -> None:
    before = seen(site, 12)
    assert reduce(made(name), before, 12) is before.tokens
    assert reduce(made(name), before, 99) is before.tokens


@pytest.mark.parametrize(("name", "site"), CASES)
def test_input_is_left_alone_and_runs_agree(name: str, site: Site) -> None:
    before, copy = seen(site, 20), seen(site, 20)
    first, second = reduce(made(name), before, 6), reduce(made(name), copy, 6)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.place, second.place)
    untouched = seen(site, 20)
    assert torch.equal(before.tokens.x, untouched.tokens.x)
    assert torch.equal(before.tokens.place, untouched.tokens.place)


@pytest.mark.parametrize(("name", "site"), [c for c in CASES if "frames" in str(c.id)])
def test_rows_do_not_mix(name: str, site: Site) -> None:
    whole = seen(site, 20)
    changed = whole.tokens.x.clone()
    changed[1] = changed[1].flip(0)
    other = replace(whole, tokens=Tokens.fresh(changed), metric=changed)
    one, two = reduce(made(name), whole, 6), reduce(made(name), other, 6)
    assert torch.equal(one.x[0], two.x[0])
    assert torch.equal(one.x[2], two.x[2])
    assert not torch.equal(one.x[1], two.x[1])


@pytest.mark.parametrize("name", list(METHODS))
def test_what_it_computes_grows_with_what_it_sees(name: str) -> None:
    method = made(name)
    small, large = Sizes(1, 64, 16, 8, 4, 8, 69), Sizes(1, 128, 16, 8, 4, 8, 133)
    assert method.work(small, 32).total <= method.work(large, 32).total
    assert method.work(small, 32) == method.work(small, 32)


@pytest.mark.parametrize("name", [n for n, kind in METHODS.items() if "llm" in kind().sites])
def test_inside_the_llm_there_is_one_round_and_a_usual_schedule(name: str) -> None:
    assert list(made(name).rounds(4097, 1000)) == [1000]
    assert made(name).usual is not None


@pytest.mark.parametrize("name", [n for n, kind in METHODS.items() if "llm" in kind().sites])
@pytest.mark.parametrize("keep", [3000, 400])
def test_no_square_of_the_tokens_is_made_inside_the_llm(
    name: str, keep: int, largest_tensor: Any
) -> None:
    """Nor of a quarter of them."""
    before = seen("llm", 6144)
    with largest_tensor() as largest:
        assert reduce(made(name), before, keep).count == keep
    assert largest.numel < (6144 // 4) ** 2


@pytest.mark.parametrize(("name", "site"), CASES)
def test_half_precision(name: str, site: Site) -> None:
    after = reduce(made(name), seen(site, 20, torch.bfloat16), 7)
    assert after.x.dtype == torch.bfloat16
    assert after.count == 7


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        reduce(made("uniform"), seen("frames", 8), -1)


def test_random_draws_anew_for_each_row_and_seed() -> None:
    before = seen("frames", 36)
    one = reduce(made("random"), before, 9)
    assert not torch.equal(one.place[0], one.place[1])
    other = Seen(before.tokens, before.metric, before.grid, seed=6)
    assert not torch.equal(one.place, reduce(made("random"), other, 9).place)


def test_uniform_keeps_an_even_stride() -> None:
    after = reduce(made("uniform"), seen("frames", 36), 9)
    assert after.place[0].tolist() == [2, 6, 10, 14, 18, 22, 26, 30, 34]


class Sized(EViT):
    """Of a new kind, which merges as ToMe does."""

    proportional: ClassVar[bool] = True


def test_attention_in_proportion_to_size_is_declared_by_the_method() -> None:
    inside = [name for name, kind in METHODS.items() if "encoder" in kind().sites]
    assert [name for name in inside if Stage("encoder", made(name)).proportional] == ["tome"]
    assert Stage("encoder", Sized()).proportional
