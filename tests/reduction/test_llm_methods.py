"""Methods inside the LLM against golden numbers of the official functions and their equations."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.clusters import density_peaks, symmetric
from tokenreduce.methods.fastv import FastV
from tokenreduce.methods.ficoco_l import FiCoCoL
from tokenreduce.methods.pyramid_drop import PyramidDrop
from tokenreduce.methods.sparsevlm import SparseVLM, by_rating, raters
from tokenreduce.paradigm import choose, reduce
from tokenreduce.schedule import Levels
from tokenreduce.seen import Seen
from tokenreduce.tokens import Attention, Tokens

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    cases: dict[str, Any] = json.loads((GOLDEN / name / "cases.json").read_text())
    return cases, load_file(GOLDEN / name / "cases.safetensors")


FASTV, FASTV_DATA = golden("fastv")
PDROP, PDROP_DATA = golden("pyramiddrop")
SPARSE, SPARSE_DATA = golden("sparsevlm")


def seen(x: Tensor, visual: Tensor, q: Tensor, k: Tensor, **more: Any) -> Seen:
    """x (n, d): one row inside the LLM, one frame."""
    tokens = Tokens.fresh(x.unsqueeze(0))
    attention = Attention(q, k, q.shape[-1] ** -0.5, causal=True)
    return Seen(tokens, tokens.x, Layout(1, 1, x.shape[0]), visual, attention, **more)


@pytest.mark.parametrize("case", sorted(FASTV))
def test_fastv_keeps_what_the_official_code_keeps(case: str) -> None:
    data = {key: FASTV_DATA[f"{case}/{key}"] for key in ("q", "k", "visual", "x_in", "x_out")}
    visual, kept = data["visual"], FASTV_DATA[f"{case}/kept"]
    before = seen(data["x_in"][0, visual], visual, data["q"], data["k"])
    split = FastV().filter(before, FASTV[case]["keep"])
    assert split.keep[0].tolist() == kept.tolist()
    text = before.text.tolist()
    left = sorted(text + visual[split.keep[0]].tolist())
    assert left == FASTV_DATA[f"{case}/positions"].tolist()
    assert torch.equal(data["x_out"][0, left], FASTV_DATA[f"{case}/x_next"][0])


@pytest.mark.parametrize("case", sorted(PDROP["cases"]))
@pytest.mark.parametrize("stage", range(3))
def test_pyramid_drop_keeps_what_the_official_code_keeps(case: str, stage: int) -> None:
    q, k, visual, kept = (
        PDROP_DATA[f"{case}/stage{stage}/{key}"] for key in ("q", "k", "visual", "kept")
    )
    before = seen(torch.zeros(visual.shape[0], 4), visual, q, k)
    assert reduce(PyramidDrop(), before, kept.shape[0]).place[0].tolist() == kept.tolist()


def test_usual_schedules_are_the_papers() -> None:
    fastv, stages = FastV.usual, PyramidDrop.usual
    assert fastv is not None
    assert stages is not None
    for depth in (24, 28, 32, 40):  # K = 2: two layers see everything
        assert [fastv.kept(layer, depth, 575) for layer in range(4)] == [575, 287, 287, 287]
    left = [stages.kept(layer, 32, 577) for layer in (7, 8, 15, 16, 23, 24)]
    assert left == [577, 288, 288, 144, 144, 72]


def test_ficoco_l_starts_at_the_fourth_layer() -> None:
    """Of 32 (arXiv 2411.17686), and goes on in equal steps to the last."""
    usual = FiCoCoL.usual
    assert usual is not None
    left = [usual.kept(layer, 32, 29 * 16) for layer in range(32)]
    assert left[:5] == [464, 464, 464, 452, 440]
    assert {a - b for a, b in pairwise(left[2:])} == {12}
    assert left[-1] == 29 * 4


def sparse_case(case: str) -> tuple[dict[str, Tensor], Seen]:
    """The case's numbers, and what the method sees, with the features that are clustered."""
    data = {key.split("/")[1]: t for key, t in SPARSE_DATA.items() if key.startswith(f"{case}/")}
    visual, length = data["visual"], data["q"].shape[2]
    entered = torch.zeros(length, data["visual_x"].shape[1])
    entered[visual] = data["visual_x"]
    entered[int(visual[-1]) + 1 :] = data["text_x"]
    return data, seen(data["x"], visual, data["q"], data["k"], entered=lambda: entered)


@pytest.mark.parametrize(
    "case",
    # Where the official cluster is of one token, all are left: nothing for us to do.
    [name for name, it in sorted(SPARSE["cases"].items()) if it["total"] < it["n"]],
)
def test_sparsevlm_rates_keeps_and_recycles_as_the_official_code(case: str) -> None:
    about = SPARSE["cases"][case]
    data, before = sparse_case(case)
    after_image = int(data["visual"][-1]) + 1
    assert (raters(before) - after_image).tolist() == sorted(data["raters"].tolist())
    attention, visual = before.need_attention()
    score = attention.received(raters(before))[0, visual]
    torch.testing.assert_close(score, data["score"].float(), rtol=1e-5, atol=1e-7)

    method, total = SparseVLM(), about["total"]
    assert method.counts(about["n"], total) == (about["kept"], about["recycled"])
    ranked = by_rating(before)[0]
    kept, recycled = ranked[: about["kept"]], ranked[about["kept"] :][: about["recycled"]]
    assert sorted(kept.tolist()) == sorted(data["kept"].tolist())
    assert sorted(recycled.tolist()) == data["recycled"].tolist()

    after = reduce(method, before, total)
    held = [place for place in after.place[0].tolist() if place not in set(kept.tolist())]
    merged = {int(p): after.x[0, after.place[0] == p][0] for p in held}
    assert torch.equal(after.x[0, torch.isin(after.place[0], kept)], data["x"][kept.sort().values])
    if about["centres_comparable"]:
        assert held == sorted(data["centres"].tolist())
        official = dict(zip(data["centres"].tolist(), data["merged"], strict=True))
        choice = choose(method, before, total)
        went = choice.affinity.weight[0, :, 0] > 0
        to = choice.split.keep[0, choice.affinity.target[0, went, 0]].tolist()
        joined = dict(zip(choice.split.drop[0, went].tolist(), to, strict=True))
        members = zip(data["recycled"].tolist(), data["centre_of"].tolist(), strict=True)
        assert joined == {token: centre for token, centre in members if token != centre}
    else:
        official = dict(zip(held, data["merged"], strict=True))
    for place, value in merged.items():
        torch.testing.assert_close(value, official[place], rtol=1e-5, atol=1e-5)
    assert after.size.sum() == about["kept"] + about["recycled"]


def test_sparsevlm_counts_add_up_for_every_n_and_keep() -> None:
    method = SparseVLM()
    for n in (2, 3, 11, 40, 177):
        for keep in range(1, n):
            s, r = method.counts(n, keep)
            official = s + int((int(0.3 * (n - s)) + 1) / 10) + 1
            smallest = 1 + int((int(0.3 * (n - 1)) + 1) / 10) + 1
            assert official == keep if keep >= smallest else s == 1
            assert keep - s <= r <= n - s


def test_sparsevlm_counts_of_the_paper() -> None:
    """576 tokens to "192": 300, 200 and 110 by score, with the clusters 309, 204 and 113."""
    method, usual = SparseVLM(), SparseVLM.usual
    assert usual is not None
    left = [usual.kept(layer, 32, 576) for layer in range(32)]
    assert left == [576] * 2 + [309] * 4 + [204] * 9 + [113] * 17
    assert [usual.kept(layer, 28, 576) for layer in (1, 2, 4, 5, 12, 13)] == [
        576, 309, 309, 204, 204, 113,
    ]  # fmt: skip
    assert [method.counts(n, m)[0] for n, m in ((576, 309), (309, 204), (204, 113))] == [
        300, 200, 110,
    ]  # fmt: skip


def test_all_text_after_the_image_rates_where_embeddings_are_unknown_or_alike() -> None:
    data, before = sparse_case("small")
    bare = seen(data["x"], data["visual"], data["q"], data["k"])
    every = list(range(int(data["visual"][-1]) + 1, data["q"].shape[2]))
    assert raters(bare).tolist() == every
    assert len(raters(before)) < len(every)
    four = drawn(20, 3, 4, seed=2)  # of four alike each has exactly the mean
    same = replace(four, entered=lambda: torch.ones(27, 3))
    assert raters(same).tolist() == [23, 24, 25, 26]


def test_a_cluster_is_a_mean_that_does_not_ask_what_merged_before() -> None:
    before = drawn(20, 3, 4, seed=2)
    sizes = torch.arange(1.0, 21).unsqueeze(0)
    heavy = replace(before, tokens=replace(before.tokens, size=sizes))
    plain, after = (reduce(SparseVLM(), it, 9) for it in (before, heavy))
    assert torch.equal(after.x, plain.x)
    ranked = by_rating(before)[0]
    s, r = SparseVLM().counts(20, 9)
    assert after.size.sum() == sizes[0, ranked[: s + r]].sum()


@pytest.mark.parametrize("r", [9, 60])  # from 26 on, distances come from a matrix product
def test_one_cluster_is_centred_on_its_most_attended_token(r: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        assert density_peaks(torch.randn(1, r, 40, generator=generator), 1).tolist() == [[0]]


def test_of_two_nearest_to_each_other_the_first_is_denser() -> None:
    """30 pairs far from each other: no second of a pair is a centre."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        x = torch.randn(1, 30, 1, 40, generator=generator).expand(-1, -1, 2, -1)
        x = x + 0.01 * torch.randn(1, 30, 2, 40, generator=generator)
        assert (density_peaks(x.flatten(1, 2), 2) % 2 == 0).all()


def slow_peaks(x: Tensor, c: int) -> list[int]:
    """DPC-KNN of x (r, d), all distances at once, in float64."""
    apart = torch.cdist(x.double(), x.double()) / x.shape[1] ** 0.5
    sparse = apart.square().topk(c, dim=1, largest=False).values.mean(dim=1)
    denser = sparse.unsqueeze(0) < sparse.unsqueeze(1)
    far = apart.masked_fill(~denser, float("inf")).amin(dim=1)
    far[sparse.argmin()] = apart.max()
    best: list[int] = (far.log() - sparse).argsort(descending=True)[:c].tolist()
    return best


@pytest.mark.parametrize(("r", "c"), [(40, 7), (1000, 90), (2500, 200)])
def test_density_peaks_in_blocks_are_those_of_all_pairs(
    r: int, c: int, largest_tensor: Any
) -> None:
    """2,500 in three blocks of rows; no tensor holds more than one block."""
    x = torch.randn(r, 6, generator=torch.Generator().manual_seed(r))
    with largest_tensor() as largest:
        found = density_peaks(x.unsqueeze(0), c)[0].tolist()
    assert len(set(found) & set(slow_peaks(x, c))) >= 0.99 * c  # but for ties in float32
    assert found[:5] == slow_peaks(x, c)[:5]
    assert largest.numel <= 1 << 21


def test_distances_are_the_same_to_the_bit_from_both_sides() -> None:
    x = torch.randn(2, 300, 6, generator=torch.Generator().manual_seed(4))
    for rows in (70, 300):
        parts = [slice(i, min(i + rows, 300)) for i in range(0, 300, rows)]
        apart = torch.cat([symmetric(x, part) for part in parts], dim=1)
        assert torch.equal(apart, apart.mT)
        assert (apart.diagonal(dim1=1, dim2=2) == 0).all()
        wanted = torch.cdist(x.double(), x.double()) / 6**0.5
        torch.testing.assert_close(apart.double(), wanted, rtol=1e-4, atol=1e-5)


def test_levels_hold_from_layer_to_layer_and_ease_both_ways() -> None:
    levels = Levels((Fraction(0), Fraction(1, 2)), (Fraction(1, 2), Fraction(1, 4)))
    assert [levels.kept(layer, 4, 100) for layer in range(4)] == [50, 50, 25, 25]
    assert levels.eased(Fraction(1, 2)) == levels
    eased = [levels.eased(Fraction(i, 8)) for i in range(9)]
    assert [e.kept(3, 4, 1000) for e in (eased[0], eased[2], eased[8])] == [0, 125, 1000]
    last = [e.kept(3, 4, 1000) for e in eased]
    assert last == sorted(last)
    with pytest.raises(ValueError, match="falling"):
        Levels((Fraction(0), Fraction(1, 2)), (Fraction(1, 4), Fraction(1, 2)))
    with pytest.raises(ValueError, match="one share each"):
        Levels((Fraction(0),), (Fraction(1, 4), Fraction(1, 8)))
    with pytest.raises(ValueError, match="rising"):
        Levels((Fraction(1, 2), Fraction(1, 4)), (Fraction(1, 4), Fraction(1, 8)))


def drawn(n: int, prefix: int, text: int, seed: int, kv: int = 2) -> Seen:
    """prefix text, n visual tokens of 6 channels, text; 4 heads that attend unevenly."""
    generator = torch.Generator().manual_seed(seed)
    length = prefix + n + text
    q, k = (2 * torch.randn(1, h, length, 4, generator=generator) for h in (4, kv))
    x = torch.randn(n, 6, generator=generator)
    return seen(x, torch.arange(prefix, prefix + n), q, k)


def slow_ficoco_l(
    before: Seen, keep: int, beta: float, gamma: float, eps: float
) -> tuple[list[int], Tensor]:
    """The equations as they stand, one number after the other, in float64: kept, new features."""
    attention, visual = before.need_attention()
    n, length = visual.shape[0], attention.length
    q, k = attention.q[0].double(), attention.k[0].double()
    a = torch.zeros(length, length, dtype=torch.float64)
    for head in range(4):
        for row in range(length):
            z = k[head * k.shape[0] // 4, : row + 1] @ q[head, row] * attention.scale
            a[row, : row + 1] += z.softmax(0) / 4
    at = visual.tolist()
    tells = [t for t in range(length) if t > at[-1]]
    score = [
        beta * sum(a[at[j], at[i]] for j in range(n)) / n
        - (1 - beta) * sum(a[t, at[i]] for t in tells) / len(tells)
        for i in range(n)
    ]
    rank = sorted(range(n), key=lambda i: score[i])
    kept, gone = sorted(rank[:keep]), sorted(rank[keep:])
    x = before.tokens.x[0].double()
    new, weight = {j: x[j].clone() for j in kept}, dict.fromkeys(kept, 1.0)
    for i in gone:
        related: Tensor = torch.stack(
            [
                gamma * a[at[max(i, j)], at[min(i, j)]]
                + (1 - gamma) * sum(a[t, at[i]] * a[t, at[j]] for t in tells) / len(tells)
                for j in kept
            ]
        )
        chosen = related >= related.quantile(eps)
        for j, c, take in zip(kept, related, chosen, strict=True):
            if take:
                alpha = float(c / related[chosen].sum())
                new[j] += alpha * x[i]
                weight[j] += alpha
    return kept, torch.stack([new[j] / weight[j] for j in kept])


@pytest.mark.parametrize(
    ("n", "keep", "eps"), [(30, 12, 0.7), (23, 22, 0.998), (17, 1, 0.5), (40, 26, 0.8)]
)
@pytest.mark.parametrize("kv", [1, 4])
def test_ficoco_l_is_its_equations(n: int, keep: int, eps: float, kv: int) -> None:
    before = drawn(n, 3, 4, seed=n, kv=kv)
    kept, x = slow_ficoco_l(before, keep, 0.6, 0.6, eps)
    after = reduce(FiCoCoL(quantile=eps), before, keep)
    assert after.place[0].tolist() == kept
    torch.testing.assert_close(after.x[0].double(), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.size.sum(), torch.tensor(float(n)))
    kept, x = slow_ficoco_l(before, keep, 0.1, 0.9, eps)
    after = reduce(FiCoCoL(balance=0.1, direct=0.9, quantile=eps), before, keep)
    assert after.place[0].tolist() == kept
    torch.testing.assert_close(after.x[0].double(), x, rtol=1e-5, atol=1e-5)


def test_ficoco_l_of_many_blocks_is_that_of_one() -> None:
    """1100 tokens go in blocks of 137 rows; any other size gives the same."""
    before = drawn(1100, 2, 5, seed=1)
    split = FiCoCoL().filter(before, 700)
    affinity = FiCoCoL().correlate(before, split)
    attention, visual = before.need_attention()
    a = attention.weights(torch.arange(attention.length)).mean(dim=1)[0]
    told, image = a[1102:, visual], a[visual][:, visual]
    image = image + image.tril(-1).T
    strength = 0.6 * image + 0.4 * told.T @ told / 5
    row = strength[split.drop[0]][:, split.keep[0]]
    weight, target = row.topk(2, dim=1)
    assert affinity.target.shape == (1, 400, 2)
    assert (affinity.target[0] == target).float().mean() > 0.999  # but for ties
    torch.testing.assert_close(
        affinity.weight[0], weight / weight.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("method", [FastV(), PyramidDrop(), SparseVLM(), FiCoCoL()])
def test_none_may_be_left(method: Any) -> None:
    after = reduce(method, drawn(20, 3, 4, seed=2), 0)
    assert after.count == 0
    assert after.x.shape == (1, 0, 6)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (FiCoCoL, "balance"),
        (FiCoCoL, "direct"),
        (FiCoCoL, "quantile"),
        (SparseVLM, "recycle"),
        (SparseVLM, "clusters"),
    ],
)
def test_a_share_is_from_0_to_1(method: Any, name: str) -> None:
    for value in (-0.1, 1.5):
        with pytest.raises(ValueError, match=name):
            method(**{name: value})


def test_sparsevlm_of_next_to_nothing_but_clusters() -> None:
    method = SparseVLM(recycle=Fraction(1), clusters=Fraction(1))
    for keep in (1, 2, 7, 19):
        assert reduce(method, drawn(20, 3, 4, seed=2), keep).count == keep
