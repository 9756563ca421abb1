"""drift's two steps against their own formulas, token by token in float64."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import pytest
import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.methods.ask_prune import AskPrune
from tokenreduce.methods.drift_merge import DriftMerge
from tokenreduce.paradigm import reduce
from tokenreduce.seen import Seen
from tokenreduce.solving import per_layer
from tokenreduce.tokens import Attention, Tokens


def clip(frames: int, each: int, seed: int, *, left: int | None = None) -> Seen:
    """Frames of `each` tokens that change slowly; of all of them only `left`, of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(frames, each, 10, generator=generator)
    x = (steps.cumsum(dim=0) / 2 + torch.randn(each, 10, generator=generator)).view(1, -1, 10)
    n = frames * each
    keep = torch.randperm(n, generator=generator)[: left or n].sort().values
    size = torch.randint(1, 5, (1, len(keep)), generator=generator).float()
    tokens = Tokens(x[:, keep], size, keep.unsqueeze(0))
    return Seen(tokens, tokens.x, Layout(frames, 1, each))


Row = tuple[Tensor, float, int]
"""Features, size and place of a token."""


def slow_round(row: list[Row], keep: int, each: int, back: int) -> list[Row]:
    """Tokens of even index look for the most similar one of odd index in their own frame or up to
    `back` before; the most similar pairs of the clip become one token at the odd one's place."""
    found = []
    for i in range(0, len(row), 2):
        best, partner = -2.0, i + 1 if i + 1 < len(row) else i - 1
        for j in range(1, len(row), 2):
            if 0 <= row[i][2] // each - row[j][2] // each <= back:
                a, b = row[i][0], row[j][0]
                cosine = float(a @ b) / float((a @ a).sqrt() * (b @ b).sqrt())
                if cosine > best:
                    best, partner = cosine, j
        found.append((-best, i, partner))
    joins = {i: j for _, i, j in sorted(found)[: len(row) - keep]}
    after = []
    for j, (x, size, place) in enumerate(row):
        if j in joins:
            continue
        group = [(x, size), *(row[i][:2] for i, target in joins.items() if target == j)]
        total = sum(s for _, s in group)
        after.append((torch.stack([s * v for v, s in group]).sum(dim=0) / total, total, place))
    return after


def slow_drift(before: Seen, keep: int, step: float, back: int) -> list[Row]:
    tokens, each = before.tokens, before.grid.per_frame
    places, sizes = tokens.place[0].tolist(), tokens.size[0].tolist()
    row: list[Row] = list(zip(tokens.x[0].double(), sizes, places, strict=True))
    while len(row) > keep:
        gone = max(1, int(step * len(row)))
        row = slow_round(row, max(keep, len(row) - gone), each, back)
    return row


def same(after: Tokens, row: list[Row]) -> None:
    assert after.place[0].tolist() == [place for _, _, place in row]
    assert after.size[0].tolist() == [size for _, size, _ in row]
    torch.testing.assert_close(
        after.x[0].double(), torch.stack([x for x, _, _ in row]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("frames", "each", "left", "keep"),
    [(4, 9, None, 12), (7, 5, 21, 8), (3, 16, 33, 2), (1, 30, None, 11), (9, 1, None, 1)],
)
def test_drift_merge_is_its_formula(frames: int, each: int, left: int | None, keep: int) -> None:
    """By default a quarter of the tokens a round, one frame back; frames that lost tokens before,
    and some that lost all, among them."""
    before = clip(frames, each, seed=frames, left=left)
    same(reduce(DriftMerge(), before, keep), slow_drift(before, keep, step=0.25, back=1))


@pytest.mark.parametrize(("step", "back"), [(0.25, 0), (0.5, 1), (0.1, 2), (0.25, 99)])
def test_drift_merge_s_numbers_are_what_they_say(step: float, back: int) -> None:
    before = clip(6, 7, seed=1)
    same(reduce(DriftMerge(step, back), before, 13), slow_drift(before, 13, step, back))


@pytest.mark.parametrize("back", [1, 3])
def test_drift_merge_of_many_blocks(back: int) -> None:
    """480 tokens are compared in blocks of whole frames; those of 300 in one of their own."""
    for frames, each, left in ((12, 40, None), (2, 300, 500)):
        before = clip(frames, each, seed=2, left=left)
        after = reduce(DriftMerge(back=back), before, before.tokens.count * 3 // 4)
        same(after, slow_drift(before, after.count, step=0.25, back=back))


def test_drift_merge_goes_by_quarters() -> None:
    assert DriftMerge().rounds(100, 30) == (75, 57, 43, 33, 30)
    assert DriftMerge().rounds(3, 1) == (2, 1)
    left = DriftMerge().rounds(6272, 300)
    assert all(b == max(300, a - int(a / 4)) for a, b in pairwise((6272, *left)))


def asked(n: int, text: int, kv: int, seed: int) -> Seen:
    """Two pictures with text before, between and after them; 4 heads that attend unevenly."""
    generator = torch.Generator().manual_seed(seed)
    length = 3 + n + 2 + text
    q, k = (2 * torch.randn(1, h, length, 4, generator=generator) for h in (4, kv))
    every = torch.arange(3, 3 + n + 2)
    visual = torch.cat([every[: n // 2], every[n // 2 + 2 :]])
    tokens = Tokens.fresh(torch.randn(1, n, 6, generator=generator))
    attention = Attention(q, k, 0.5, causal=True)
    return Seen(tokens, tokens.x, Layout(1, 1, n), visual, attention)


def slow_ask(before: Seen, keep: int) -> list[int]:
    """Softmax of each later position over all it sees, one number after the other."""
    attention, visual = before.need_attention()
    q, k = attention.q[0].double(), attention.k[0].double()
    at, heads, shared = visual.tolist(), q.shape[0], k.shape[0]
    got = dict.fromkeys(at, 0.0)
    for asker in range(at[-1] + 1, attention.length):
        for head in range(heads):
            keys = k[head * shared // heads]
            e = [exp(float(q[head, asker] @ keys[j]) * attention.scale) for j in range(asker + 1)]
            for j in at:
                got[j] += e[j] / sum(e)
    best = sorted(range(len(at)), key=lambda i: (-got[at[i]], i))[:keep]
    return sorted(best)


@pytest.mark.parametrize(("n", "keep", "text"), [(20, 7, 4), (31, 30, 1), (12, 1, 9), (40, 13, 6)])
@pytest.mark.parametrize("kv", [1, 4])
def test_ask_prune_is_its_formula(n: int, keep: int, text: int, kv: int) -> None:
    before = asked(n, text, kv, seed=n)
    after = reduce(AskPrune(), before, keep)
    assert after.place[0].tolist() == slow_ask(before, keep)
    assert torch.equal(after.x[0], before.tokens.x[0, after.place[0]])


def test_ask_prune_s_usual_cut_is_a_quarter_after_a_quarter() -> None:
    assert AskPrune.usual is not None
    assert per_layer([AskPrune.usual], 12, 100) == (100,) * 4 + (25,) * 8
