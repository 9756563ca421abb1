"""Methods that act in or after the encoder: official numbers, and each formula written slowly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.methods.evit import EViT
from tokenreduce.methods.tome import ToMe
from tokenreduce.paradigm import reduce
from tokenreduce.seen import Evidence, Seen
from tokenreduce.tokens import Attention, Tokens

GOLDEN = Path(__file__).parents[1] / "golden"


def cases(method: str) -> list[Any]:
    facts = json.loads((GOLDEN / method / "cases.json").read_text())
    return [pytest.param(name, fact, id=name) for name, fact in facts.items()]


def numbers(method: str, case: str) -> dict[str, Tensor]:
    """Of one case; what lies in the file as (name of the case)/(name)."""
    data = load_file(GOLDEN / method / "cases.safetensors")
    return {key.split("/")[1]: value for key, value in data.items() if key.startswith(f"{case}/")}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=2e-6, rtol=1e-5)


def flat(n: int) -> Layout:
    return Layout(1, 1, n)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def looked_at(b: int, n: int, seed: int = 0, *, has_class: bool = False) -> Seen:
    """Frames of random tokens and evidence after the encoder."""
    x = drawn(b, n, 12, seed=seed)
    keys = drawn(b, n, 3, 5, seed=seed + 1)
    pairs = drawn(b, n, n, seed=seed + 2).softmax(dim=-1)
    salience = drawn(b, n, seed=seed + 3).softmax(dim=-1) if has_class else pairs.mean(dim=1)
    return Seen(
        Tokens.fresh(x),
        keys.mean(dim=2),
        flat(n),
        evidence=Evidence(salience, keys, pairs, has_class),
    )


# ToMe


@pytest.mark.parametrize(("case", "fact"), [c for c in cases("tome") if c.id != "with_cls"])
def test_tome_equals_the_official_code(case: str, fact: dict[str, Any]) -> None:
    data = numbers("tome", case)
    fresh = Tokens.fresh(data["x"])
    tokens = Tokens(fresh.x, data.get("size", fresh.size), fresh.place)
    ours = reduce(ToMe(), Seen(tokens, data["metric"], flat(fact["n"])), fact["keep"])
    assert torch.equal(ours.place, data["place"])
    close(ours.x, data["x_out"])
    close(ours.size, data["size_out"])


def test_tome_with_the_class_token_outside_moves_the_even_patches() -> None:
    """Official code counts the class token, so there the odd patches move; ours by one shift."""
    data = numbers("tome", "with_cls")
    # A patch before all others that nothing is similar to stands where the class token stood.
    metric = data["metric"].clone()
    metric[:, 0] = 0
    fresh = Tokens.fresh(data["x"])
    tokens = Tokens(fresh.x, data["size"], fresh.place)
    ours = reduce(ToMe(), Seen(tokens, metric, flat(37)), 25)
    assert torch.equal(ours.place, data["place"])
    close(ours.x, data["x_out"])
    close(ours.size, data["size_out"])


def test_tome_merges_in_as_few_rounds_as_there_are() -> None:
    assert list(ToMe().rounds(196, 25)) == [98, 49, 25]
    assert list(ToMe().rounds(729, 700)) == [700]
    assert list(ToMe().rounds(5, 1)) == [3, 2, 1]


# EViT


def class_attention(data: dict[str, Tensor], scale: float, *, single: bool = False) -> Attention:
    q, k = (data[name].unsqueeze(1) if single else data[name] for name in ("q", "k"))
    return Attention(q, k, scale, causal=False)


def inside(x: Tensor, attention: Attention) -> Seen:
    """Patches (b, n, d) behind one class token."""
    n = x.shape[1]
    metric = attention.k[:, :, 1:].mean(dim=1)
    return Seen(Tokens.fresh(x), metric, flat(n), torch.arange(1, n + 1), attention)


@pytest.mark.parametrize(("case", "fact"), cases("evit"))
@pytest.mark.parametrize("site", ["encoder", "frames"])
def test_evit_equals_the_official_code(case: str, fact: dict[str, Any], site: str) -> None:
    data, n, fused = numbers("evit", case), fact["n"], fact["fuse"]
    attention = class_attention(data, fact["scale"])
    seen = inside(data["x"][:, 1:], attention)
    close(seen.salience, data["cls_attention"])
    if site == "frames":
        evidence = Evidence(salience=data["cls_attention"], has_class=True)
        seen = Seen(seen.tokens, seen.metric, flat(n), evidence=evidence)
    ours = reduce(EViT(fuse=fused), seen, fact["tokens_out_without_cls"])
    for row in range(fact["b"]):
        kept = data["idx"][row].sort().values
        own = torch.isin(ours.place[row], kept)
        assert torch.equal(ours.place[row][own], kept)
        assert torch.equal(ours.x[row][own], data["x"][row, 1:][kept])
        assert int((~own).sum()) == int(fused)
        if fused:
            close(ours.x[row][~own][0], data["out"][row, -1])
            assert float(ours.size[row][~own]) == n - len(kept)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("n", "keep"), [(7, 3), (16, 1), (25, 24)])
def test_evit_equals_the_slow_form(n: int, keep: int, normalised: bool) -> None:
    seen = looked_at(2, n, seed=n)
    ours = reduce(EViT(normalised=normalised), seen, keep)
    for row in range(2):
        a = seen.salience[row].double().tolist()
        x = seen.tokens.x[row].double()
        order = sorted(range(n), key=lambda i: (-a[i], i))
        stays, rest = order[: keep - 1], order[keep - 1 :]
        token = sum(a[i] * x[i] for i in rest)
        if normalised:
            token = token / sum(a[i] for i in rest)
        want = sorted([*((i, x[i], 1) for i in stays), (rest[0], token, len(rest))])
        assert ours.place[row].tolist() == [i for i, _, _ in want]
        close(ours.x[row], torch.stack([torch.as_tensor(value) for _, value, _ in want]))
        assert ours.size[row].tolist() == [size for _, _, size in want]


def test_evit_without_fusing_is_plain_pruning() -> None:
    seen = looked_at(2, 9)
    ours = reduce(EViT(fuse=False), seen, 4)
    best = seen.salience.topk(4, dim=1).indices.sort(dim=1).values
    assert torch.equal(ours.place, best)
    assert torch.equal(ours.x, seen.tokens.take(best).x)
    assert (ours.size == 1).all()
