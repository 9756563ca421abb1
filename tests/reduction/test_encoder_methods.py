"""Methods that act in or after the encoder: official numbers, and each formula written slowly."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tokenreduce.budget import Layout
from tokenreduce.methods import METHODS
from tokenreduce.methods.evit import EViT
from tokenreduce.methods.ficoco_v import FiCoCoV
from tokenreduce.methods.pooling import Pooling, cells
from tokenreduce.methods.prumerge import PruMerge
from tokenreduce.methods.tome import ToMe
from tokenreduce.methods.visionzip import VisionZip
from tokenreduce.paradigm import reduce
from tokenreduce.seen import Evidence, Seen
from tokenreduce.steps import targets_of_quantile
from tokenreduce.tokens import Attention, Split, Tokens
from tokenreduce.work import Cost, Sizes

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


# PruMerge


def prumerge_seen(case: str) -> tuple[dict[str, Tensor], Seen]:
    """All heads side by side are one head to the official code."""
    data = numbers("prumerge", case)
    keys = data["k"][:, 1:].unsqueeze(2)
    evidence = Evidence(data["cls_attention"], keys, has_class=True)
    x = data["x"]
    return data, Seen(Tokens.fresh(x), keys.mean(dim=2), flat(x.shape[1]), evidence=evidence)


@pytest.mark.parametrize(("case", "fact"), [c for c in cases("prumerge") if c.id != "plus"])
def test_prumerge_equals_the_official_code(case: str, fact: dict[str, Any]) -> None:
    data, seen = prumerge_seen(case)
    ours = reduce(PruMerge(), seen, fact["tokens_out"])
    for row in range(fact["b"]):
        order = data["idx"][row].argsort()
        own = torch.isin(ours.place[row], data["idx"][row])
        assert torch.equal(ours.place[row][own], data["idx"][row][order])
        close(ours.x[row][own], data["out"][row, :-1][order])
        close(ours.x[row][~own][0], data["out"][row, -1])
        assert float(ours.size[row].sum()) == fact["n"]


def test_prumerge_plus_merges_as_the_official_code_given_its_tokens() -> None:
    """Its sample has no chosen count, so its tokens are given; the least attended of them stands
    for all that is dropped here, and for itself there."""
    data, seen = prumerge_seen("plus")
    idx, out, a, x = data["idx"][0], data["out"][0], data["cls_attention"][0], data["x"][0]
    split = Split.of_keep(idx.unsqueeze(0), 576)
    method = PruMerge(plus=True)
    ours = method.compress(seen, split, method.correlate(seen, split))
    order = idx.argsort()
    least = int(a[idx[order]].argmin())
    others = torch.arange(len(idx)) != least
    close(ours.x[0][others], out[:-1][order][others])
    itself = idx[order][least]
    close(ours.x[0][least] - a[itself] * x[itself], out[-1])


def test_prumerge_plus_takes_a_quarter_by_attention_and_the_rest_evenly() -> None:
    seen = looked_at(2, 100, has_class=True)
    split = PruMerge(plus=True).filter(seen, 20)
    for row in range(2):
        top = seen.salience[row].topk(5).indices.tolist()
        rest = [i for i in range(100) if i not in top]
        assert split.keep[row].tolist() == sorted(top + [rest[i * 95 // 15] for i in range(15)])


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize(("n", "keep", "near"), [(7, 3, 32), (30, 9, 4), (16, 1, 5), (25, 24, 8)])
def test_prumerge_equals_the_slow_form(n: int, keep: int, near: int, plus: bool) -> None:
    seen = looked_at(2, n, seed=n)
    method = PruMerge(near, plus)
    ours = reduce(method, seen, keep)
    keep_at = method.filter(seen, keep).keep
    for row in range(2):
        a, x = seen.salience[row].double(), seen.tokens.x[row].double()
        k = seen.keys[row].double().flatten(1)
        kept = keep_at[row].tolist()
        extra = min(kept, key=lambda i: (float(a[i]), -i))
        for slot, j in enumerate(kept):
            others = [i for i in range(n) if i != j]
            others.sort(key=lambda i: -float(torch.cosine_similarity(k[i], k[j], dim=0)))
            want = x[j].clone()
            if j == extra:
                want *= a[j]
            for i in set(range(n)) - set(kept) if j == extra else others[:near]:
                want += a[i] * x[i]
            close(ours.x[row, slot], want)


# VisionZip


@pytest.mark.parametrize(("case", "fact"), cases("visionzip"))
def test_visionzip_equals_the_official_code(case: str, fact: dict[str, Any]) -> None:
    data, n, h = numbers("visionzip", case), fact["n"], fact["h"]
    seen = inside(data["x"][:, 1:], class_attention(data, fact["scale"]))
    close(seen.salience * h, data["cls_attention_sum"])
    close(seen.metric, data["metric"][:, 1:])
    keep = fact["dominant"] + fact["contextual"]
    ours = reduce(VisionZip(fact["contextual"] / keep), seen, keep)
    for row in range(fact["b"]):
        dominant, anchors = data["dominant"][row], data["anchors"][row]
        place = torch.cat([dominant, anchors])
        order = place.argsort()
        assert torch.equal(ours.place[row], place[order])
        close(ours.x[row], data["out"][row, 1:][order])
        target = data["target"][row]
        joined = torch.bincount(target[target >= 0], minlength=n)[place[order]]
        assert torch.equal(ours.size[row], 1.0 + joined)


@pytest.mark.parametrize("anchor_in_mean", [False, True])
@pytest.mark.parametrize(("n", "keep"), [(7, 3), (36, 13), (16, 1), (25, 24), (49, 8)])
def test_visionzip_equals_the_slow_form(n: int, keep: int, anchor_in_mean: bool) -> None:
    seen = looked_at(2, n, seed=n)
    ours = reduce(VisionZip(anchor_in_mean=anchor_in_mean), seen, keep)
    count = round(keep * 10 / 64)
    for row in range(2):
        a, x = seen.salience[row].tolist(), seen.tokens.x[row].double()
        g = seen.metric[row].double()
        dominant = sorted(range(n), key=lambda i: (-a[i], i))[: keep - count]
        rest = [i for i in range(n) if i not in dominant]
        anchors = rest[:: max(1, len(rest) // count)][:count] if count else []
        groups: dict[int, list[int]] = {i: [] for i in dominant + anchors}
        for i in rest if anchors else []:
            if i not in anchors:
                near = [float(torch.cosine_similarity(g[i], g[j], dim=0)) for j in anchors]
                groups[anchors[near.index(max(near))]].append(i)
        assert ours.place[row].tolist() == sorted(groups)
        for slot, j in enumerate(sorted(groups)):
            joined = [x[i] for i in groups[j]]
            want = x[j]
            if joined and anchor_in_mean:
                want = torch.stack([x[j], *joined]).mean(dim=0)
            elif joined:
                want = x[j] + torch.stack(joined).mean(dim=0)
            close(ours.x[row, slot], want)
            assert float(ours.size[row, slot]) == 1 + len(joined)


# FiCoCo-V


def slow_ficoco(
    seen: Seen,
    row: int,
    keep: int,
    *,
    share: float = 0.35,
    quantile: float = 0.998,
    window: int = 2,
) -> dict[int, tuple[Tensor, Any]]:
    """The equations of arXiv 2411.17686 with the paper's lambda, epsilon and W, token by token:
    place to (features, size)."""
    n = seen.tokens.count
    attention = seen.patch_attention[row].double()
    x, size = seen.tokens.x[row].double(), seen.tokens.size[row].tolist()
    keys = seen.keys[row].double().mean(dim=1)
    mu = keys.sum(dim=0) / n
    received = [sum(float(attention[j, i]) for j in range(n)) / n for i in range(n)]
    if seen.has_class:
        semantic = seen.salience[row].tolist()
    else:
        semantic = [-float(torch.cosine_similarity(mu, keys[i], dim=0)) for i in range(n)]

    def scaled(values: list[float]) -> list[float]:
        length = sqrt(sum(v * v for v in values))
        return [v / length for v in values]

    pairs = zip(scaled(received), scaled(semantic), strict=True)
    score = [share * v - (1 - share) * s for v, s in pairs]
    windows: dict[tuple[int, int], list[int]] = {}
    for i, place in enumerate(seen.tokens.place[row].tolist()):
        at = divmod(place, seen.grid.columns)
        windows.setdefault((at[0] // window, at[1] // window), []).append(i)
    for members in windows.values():
        top = max(members, key=lambda i: (score[i], -i))
        score[top] *= 2 if score[top] > 0 else 0.5
    gone = sorted(range(n), key=lambda i: (-score[i], -i))[: n - keep]
    kept = [i for i in range(n) if i not in gone]
    total = {j: x[j].clone() for j in kept}
    weight, sizes = dict.fromkeys(kept, 1.0), {j: size[j] for j in kept}
    for i in gone:
        row_of = torch.stack([attention[i, j] for j in kept])
        cut = torch.quantile(row_of, quantile)
        best = [j for j in kept if attention[i, j] >= cut]
        whole = sum(float(attention[i, j]) for j in best)
        for j in best:
            alpha = float(attention[i, j]) / whole
            total[j] += alpha * x[i]
            weight[j] += alpha
            sizes[j] += alpha * size[i]
    places = seen.tokens.place[row].tolist()
    return {places[j]: (total[j] / weight[j], sizes[j]) for j in kept}


def ficoco_seen(rows: int, columns: int, *, has_class: bool, gone: int = 0) -> Seen:
    """With `gone` places left before, others in each row."""
    n = rows * columns - gone
    seen = looked_at(2, n, seed=n, has_class=has_class)
    place = drawn(2, rows * columns, seed=3).argsort(dim=1)[:, :n].sort(dim=1).values
    tokens = Tokens(seen.tokens.x, 1 + drawn(2, n, seed=4).abs(), place)
    return Seen(tokens, seen.metric, Layout(1, rows, columns), evidence=seen.evidence)


@pytest.mark.parametrize("has_class", [False, True])
@pytest.mark.parametrize("gone", [0, 4])
@pytest.mark.parametrize(
    ("rows", "columns", "keep", "quantile"),
    [(6, 6, 11, 0.998), (5, 7, 30, 0.9), (3, 3, 1, 0.998), (1, 9, 4, 0.5), (7, 2, 9, 0.0)],
)
def test_ficoco_equals_the_slow_form(
    rows: int, columns: int, keep: int, quantile: float, gone: int, has_class: bool
) -> None:
    seen = ficoco_seen(rows, columns, has_class=has_class, gone=gone)
    ours = reduce(FiCoCoV(quantile=quantile), seen, keep)
    for row in range(2):
        want = slow_ficoco(seen, row, keep, quantile=quantile)
        assert ours.place[row].tolist() == list(want)
        close(ours.x[row], torch.stack([x for x, _ in want.values()]))
        close(ours.size[row], torch.tensor([size for _, size in want.values()]))


@pytest.mark.parametrize("has_class", [False, True])
@pytest.mark.parametrize(("share", "window"), [(0.35, 2), (0.8, 3), (0.0, 1), (1.0, 4)])
def test_ficoco_s_numbers_are_what_they_say(share: float, window: int, has_class: bool) -> None:
    """And the paper's by default: of 510 kept, each of the 10 others goes to two."""
    seen = ficoco_seen(21, 26, has_class=has_class, gone=26)
    method = FiCoCoV() if share == 0.35 else FiCoCoV(share, window=window)
    ours = reduce(method, seen, 510)
    want = slow_ficoco(seen, 0, 510, share=share, window=window)
    assert ours.place[0].tolist() == list(want)
    close(ours.x[0], torch.stack([x for x, _ in want.values()]))


@pytest.mark.parametrize("depth", [23, 24])
def test_ficoco_starts_at_the_12th_layer(depth: int) -> None:
    """CLIP has 24 layers, LLaVA-1.5 uses the output of the 23rd. There the steps are equal."""
    assert FiCoCoV.usual is not None
    left = [FiCoCoV.usual.kept(layer, depth, 576) for layer in range(depth)]
    assert left[10:12] == [576, 540 if depth == 23 else 558]
    steps = [a - b for a, b in pairwise(left[10:])]
    assert left[-1] == 144
    assert all(step in ((36,) if depth == 23 else (18, 34, 35)) for step in steps)


def test_ficoco_looks_at_the_keys_only_where_there_is_no_class_token() -> None:
    sizes = Sizes(2, 100, 16, 8, 4, 8)
    assert FiCoCoV().work(replace(sizes, has_class=True), 40).matmul == 0
    assert FiCoCoV().work(sizes, 40).matmul == 2 * 2 * 100 * 8


def test_ficoco_reads_the_same_inside_the_encoder() -> None:
    """Of a layer's queries and keys, class token first."""
    attention = Attention(drawn(2, 3, 17, 5), drawn(2, 3, 17, 5, seed=1), 0.4, causal=False)
    x = drawn(2, 16, 12, seed=2)
    metric = attention.k[:, :, 1:].mean(dim=1)
    seen = Seen(Tokens.fresh(x), metric, Layout(1, 4, 4), torch.arange(1, 17), attention)
    ours = reduce(FiCoCoV(), seen, 6)
    weights = (attention.q @ attention.k.transpose(2, 3) * 0.4).softmax(dim=-1).mean(dim=1)
    evidence = Evidence(
        weights[:, 0, 1:], attention.k[:, :, 1:].transpose(1, 2), weights[:, 1:, 1:], True
    )
    after = Seen(Tokens.fresh(x), metric, Layout(1, 4, 4), evidence=evidence)
    for row in range(2):
        want = slow_ficoco(after, row, 6)
        assert ours.place[row].tolist() == list(want)
        close(ours.x[row], torch.stack([value for value, _ in want.values()]))


def test_ficoco_penalty_spreads_what_goes() -> None:
    """Four equally redundant patches in one corner: one of a window goes before the next."""
    pairs = torch.full((1, 16, 16), 1.0)
    pairs[:, :, [0, 1, 4, 5]] = 10.0
    pairs[:, :, [2, 3, 6, 7]] = 9.0
    evidence = Evidence(torch.full((1, 16), 1 / 16), drawn(1, 16, 1, 4), pairs, has_class=True)
    seen = Seen(Tokens.fresh(drawn(1, 16, 8)), drawn(1, 16, 4), Layout(1, 4, 4), evidence=evidence)
    assert FiCoCoV(1.0, window=2).filter(seen, 14).drop[0].tolist() == [0, 2]
    assert FiCoCoV(1.0, window=1).filter(seen, 14).drop[0].tolist() == [4, 5]


@pytest.mark.parametrize(("kept", "targets"), [(1, 1), (500, 1), (501, 2), (1568, 4), (6272, 13)])
def test_targets_of_the_quantile(kept: int, targets: int) -> None:
    assert targets_of_quantile(0.998, kept) == targets


# Pooling


@given(rows=st.integers(1, 15), columns=st.integers(1, 15), data=st.data())
def test_pooling_cells_are_rectangles_that_fill_the_grid(
    rows: int, columns: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, rows * columns))
    cell, middle = cells(rows, columns, keep)
    assert sorted(set(cell)) == list(range(keep))
    assert middle == sorted(middle)
    for index, place in enumerate(middle):
        assert cell[place] == index
        inside_it = [divmod(i, columns) for i, one in enumerate(cell) if one == index]
        high = {row for row, _ in inside_it}
        wide = {column for _, column in inside_it}
        assert len(inside_it) == len(high) * len(wide)
        assert max(high) - min(high) < len(high)
        assert max(wide) - min(wide) < len(wide)


def test_pooling_at_whole_factors_is_average_pooling() -> None:
    x = drawn(2, 144, 5)
    for keep, side in ((36, 2), (16, 3), (9, 4)):
        ours = reduce(Pooling(), Seen(Tokens.fresh(x), x, Layout(1, 12, 12)), keep)
        square = x.view(2, 12, 12, 5).permute(0, 3, 1, 2)
        close(ours.x, avg_pool2d(square, side).flatten(2).transpose(1, 2))
        assert (ours.size == side * side).all()


@given(n=st.integers(2, 60), data=st.data())
@settings(max_examples=30)
def test_pooling_means_each_cell_whatever_has_left(n: int, data: st.DataObject) -> None:
    """A grid of which n places are left: runs of neighbours."""
    keep = data.draw(st.integers(1, n - 1))
    x = drawn(1, n, 3, seed=n)
    place = drawn(1, 64, seed=n).argsort(dim=1)[:, :n].sort(dim=1).values
    seen = Seen(Tokens(x, torch.ones(1, n), place), x, Layout(1, 8, 8))
    ours = reduce(Pooling(), seen, keep)
    bounds = [i * n // keep for i in range(keep + 1)]
    want = torch.stack([x[0, a:b].mean(dim=0) for a, b in pairwise(bounds)])
    close(ours.x[0], want)
    assert float(ours.size.sum()) == n


def test_pooling_counts_patches_not_tokens() -> None:
    """What was merged before weighs as many patches as it stands for."""
    x = torch.tensor([[[1.0], [4.0], [7.0], [9.0]]])
    tokens = Tokens(x, torch.tensor([[2.0, 1.0, 1.0, 3.0]]), torch.arange(4).unsqueeze(0))
    ours = reduce(Pooling(), Seen(tokens, x, Layout(1, 1, 4)), 2)
    close(ours.x[0, :, 0], torch.tensor([2.0, 8.5]))
    assert ours.size[0].tolist() == [3, 4]


def test_pooling_sees_no_frame_in_what_is_left_of_several() -> None:
    """As many tokens as one frame has, of two frames: runs, not a grid."""
    x = drawn(1, 16, 3)
    ours = reduce(Pooling(), Seen(Tokens.fresh(x), x, Layout(2, 4, 4)), 4)
    close(ours.x, x.view(1, 4, 4, 3).mean(dim=2))


# All


@given(
    name=st.sampled_from(
        ["tome", "evit", "prumerge", "prumerge+", "visionzip", "ficoco-v", "pooling"]
    ),
    n=st.integers(2, 40),
    data=st.data(),
)
@settings(max_examples=60)
def test_any_count_is_met_and_no_patch_is_lost(name: str, n: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, n - 1))
    method = PruMerge(plus=True) if name == "prumerge+" else METHODS[name]()
    ours = reduce(method, looked_at(2, n, seed=n), keep)
    assert ours.count == keep
    assert (ours.place.diff(dim=1) > 0).all()
    assert torch.isfinite(ours.x).all()
    if not (name == "visionzip" and keep < 4):  # those have no contextual token
        close(ours.size.sum(dim=1), torch.full((2,), float(n)))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FiCoCoV, {"balance": 1.5}, "balance 1.5"),
        (FiCoCoV, {"quantile": -0.1}, "quantile -0.1"),
        (FiCoCoV, {"window": 0}, "window 0"),
        (VisionZip, {"contextual": 2.0}, r"contextual 2\.0"),
        (PruMerge, {"neighbours": 0}, "neighbours 0"),
    ],
)
def test_numbers_out_of_range_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_inside_an_encoder_looking_again_is_counted() -> None:
    """4 heads of 8 over 100 patches: one row of attention for a class token, all without one."""
    after, none = Sizes(2, 100, 16, 8), Sizes(2, 100, 16, 8, 4, 8, 100)
    classed = Sizes(2, 100, 16, 8, 4, 8, 101)
    fused = EViT().work(after, 40)
    assert fused == Cost(2 * 60 * 16, 2 * 16) * 2
    assert EViT().work(classed, 40) == fused + Cost(2 * 8, 5) * (2 * 101 * 4)
    assert EViT().work(none, 40) == fused + Cost(2 * 8, 5) * (2 * 100 * 100 * 4)
    looked_again = FiCoCoV().work(classed, 40).matmul
    assert looked_again == 2 * 8 * (2 * 101 * 101 * 4)
