"""AIM's merging: the official code's numbers, the paper's counts, an independent slow form."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from tokenreduce.budget import Layout
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.paradigm import reduce
from tokenreduce.seen import Seen
from tokenreduce.steps import halving
from tokenreduce.tokens import Tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "aim_merge"
STEPS = ("chain_50", "chain_25", "chain_12", "chain_6")


def cases() -> list[Any]:
    """Every stage whose slots the official run leaves comparable."""
    found = []
    for kind in ("normal", "cluster", "ties"):
        facts = json.loads((GOLDEN / f"merge_{kind}.json").read_text())
        for case, fact in facts.items():
            for stage, about in fact.get("stages", {}).items() if isinstance(fact, dict) else ():
                if about and about.get("slots_match_fp64_first_index_stable_sort"):
                    found.append(pytest.param(kind, case, stage, id=f"{kind}-{case}-{stage}"))
    return found


def merged(x: Tensor, keep: int) -> tuple[Tokens, Tensor]:
    """One row per frame merged to `keep`, and which inputs each output holds: (f, keep, n) bool."""
    f, n, _ = x.shape
    grid = Layout(1, 1, n)
    tokens = reduce(AimMerge(), Seen(Tokens.fresh(x), x, grid), keep)
    one_hot = Tokens.fresh(torch.eye(n).expand(f, n, n))
    return tokens, reduce(AimMerge(), Seen(one_hot, x, grid), keep).x > 0


def test_most_stages_are_comparable() -> None:
    assert len(cases()) > 100


@pytest.mark.parametrize(("kind", "case", "stage"), cases())
def test_official_slots_and_values(kind: str, case: str, stage: str) -> None:
    data = load_file(GOLDEN / f"merge_{kind}.safetensors")
    before = STEPS.index(stage) - 1 if stage in STEPS else -1
    source = data[f"{case}/{STEPS[before]}" if before >= 0 else f"{case}/x"].float()
    slot = data[f"{case}/{stage}/slot"].long()
    keep = int(slot.max()) + 1
    ours, members = merged(source, keep)
    # Official order is survivors by rank, then destinations; ours is raster: match by members.
    for frame in range(source.shape[0]):
        rows = [sorted(set(slot[frame][held].tolist())) for held in members[frame]]
        assert all(len(row) == 1 for row in rows), "tokens of one output came from two"
        order = [row[0] for row in rows]
        assert sorted(order) == list(range(keep))
        if f"{case}/{stage}" in data:
            torch.testing.assert_close(
                ours.x[frame], data[f"{case}/{stage}"].float()[frame][order], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize(
    "case", ["F2_side27_bilinear", "F3_side14_bilinear", "F2_side9_bilinear", "F1_side27_average"]
)
def test_official_pool_and_merge(case: str) -> None:
    data = load_file(GOLDEN / "get_2dpool_with_merge.safetensors")
    x, out = data[f"{case}/x"].float(), data[f"{case}/out"].float()
    side, pooled_side = round(x.shape[1] ** 0.5), round(data[f"{case}/pooled"].shape[1] ** 0.5)
    square = x.reshape(x.shape[0], side, side, -1).permute(0, 3, 1, 2)
    if "bilinear" in case:
        square = interpolate(square, size=(pooled_side, pooled_side), mode="bilinear")
    else:
        square = torch.nn.functional.avg_pool2d(square, 2)
    pooled = square.flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled, data[f"{case}/pooled"].float(), atol=1e-5, rtol=0)
    n = pooled.shape[1]
    first = halving(n, 1)[0]
    ours, _ = merged(pooled, first)
    if n % 2 == 0:  # every even token merges: official order is raster, so the chain is ours
        ours, _ = merged(pooled, out.shape[1])
        gap = (
            torch.cdist(ours.x, out, compute_mode="donot_use_mm_for_euclid_dist")
            .min(dim=2)
            .values.max()
        )
        assert float(gap) < 1e-5


@pytest.mark.parametrize(
    ("n", "counts"),
    [
        (196, (98, 49, 25, 13, 7, 4)),
        (169, (85, 43, 22, 12, 7, 5)),
        (729, (365, 183, 92, 47, 25, 14)),
    ],
)
def test_papers_rounds(n: int, counts: tuple[int, ...]) -> None:
    assert halving(n, counts[-1]) == counts


@pytest.mark.parametrize("keep", range(1, 36))
def test_any_count_is_reached_in_rounds_of_at_most_half(keep: int) -> None:
    path = (36, *halving(36, keep))
    assert path[-1] == keep
    for before, after in pairwise(path):
        assert before / 2 <= after < before


def slow(x: Tensor, keep: int, weighted: bool) -> tuple[Tensor, Tensor]:
    """The same by the letter of the paper, token by token in float64."""
    values, sizes = list(x.double()), [1.0] * len(x)
    for count in halving(len(values), keep):
        even, odd = list(range(0, len(values), 2)), list(range(1, len(values), 2))
        links = []
        for a in even:
            cosine = [torch.cosine_similarity(values[a], values[b], dim=0).item() for b in odd]
            best = max(range(len(odd)), key=lambda i: (cosine[i], -i))
            links.append((-cosine[best], a, odd[best]))
        gone = {a: b for _, a, b in sorted(links)[: len(values) - count]}
        next_values, next_sizes = [], []
        for i in range(len(values)):
            if i in gone:
                continue
            group = [i, *(a for a, b in gone.items() if b == i)]
            weights = [sizes[g] if weighted else 1.0 for g in group]
            total = sum(w * values[g] for w, g in zip(weights, group, strict=True))
            next_values.append(total / sum(weights))
            next_sizes.append(sum(sizes[g] for g in group))
        values, sizes = next_values, next_sizes
    return torch.stack(values), torch.tensor(sizes)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "keep"), [(36, 9), (36, 4), (25, 7), (9, 1), (49, 30)])
def test_equals_the_slow_form(n: int, keep: int, weighted: bool) -> None:
    x = torch.randn(2, n, 24, generator=torch.Generator().manual_seed(n + keep))
    ours = reduce(AimMerge(weighted), Seen(Tokens.fresh(x), x, Layout(1, 1, n)), keep)
    for frame in range(2):
        values, sizes = slow(x[frame], keep, weighted)
        torch.testing.assert_close(ours.x[frame].double(), values, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.size[frame], sizes)


def test_size_is_conserved_and_equal_tokens_stay_equal() -> None:
    x = torch.ones(1, 36, 8) * 3.0
    ours = reduce(AimMerge(), Seen(Tokens.fresh(x), x, Layout(1, 6, 6)), 5)
    assert float(ours.size.sum()) == 36
    torch.testing.assert_close(ours.x, torch.full((1, 5, 8), 3.0))


def test_a_zero_token_is_no_trouble() -> None:
    x = torch.randn(1, 10, 8)
    x[0, 4] = 0
    assert torch.isfinite(merged(x, 5)[0].x).all()
