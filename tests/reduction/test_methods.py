"""The contract that every method keeps, over the registry: a new one is tested for free."""

from __future__ import annotations

import pytest
import torch

from tokenreduce.methods import METHODS
from tokenreduce.paradigm import Method, Site, reduce
from tokenreduce.tokens import Attention, Grid, Seen, Tokens

SITES: list[Site] = ["frames", "clip", "llm"]
CASES = [
    pytest.param(name, site, id=f"{name}-{site}")
    for name, kind in METHODS.items()
    for site in SITES
    if site in kind().sites
]


def seen(site: Site, n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Seen:
    """Random tokens as a method meets them at `site`; in the LLM with five text positions."""
    generator = torch.Generator().manual_seed(seed)
    rows = 3 if site == "frames" else 1
    x = torch.randn(rows, n, 16, generator=generator).to(dtype)
    tokens = Tokens.fresh(x)
    if site != "llm":
        return Seen(tokens, x, Grid(1, 1, n), seed=5)
    length = n + 5
    q = torch.randn(1, 4, length, 8, generator=generator).to(dtype)
    k = torch.randn(1, 2, length, 8, generator=generator).to(dtype)
    visual = torch.arange(2, n + 2)
    return Seen(tokens, x, Grid(1, 1, n), visual, Attention(q, k, 8**-0.5, True), seed=5)


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
    other = Seen(Tokens.fresh(changed), changed, whole.grid, seed=5)
    one, two = reduce(made(name), whole, 6), reduce(made(name), other, 6)
    assert torch.equal(one.x[0], two.x[0])
    assert torch.equal(one.x[2], two.x[2])
    assert not torch.equal(one.x[1], two.x[1])


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
