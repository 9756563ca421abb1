"""A row fares the same whatever batch it comes in; the control that draws, draws for each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tokenreduce.budget import Layout
from tokenreduce.engine.encoder import run
from tokenreduce.engine.types import Prune
from tokenreduce.methods import METHODS
from tokenreduce.methods.controls import Random
from tokenreduce.models.vision import Within, batches_within
from tokenreduce.paradigm import Method, reduce
from tokenreduce.reducer import Reducer
from tokenreduce.schedule import Even
from tokenreduce.seen import Evidence, Seen
from tokenreduce.tokens import Attention, Tokens

ROWS, SIDE = 40, 5
EACH = SIDE * SIDE
Site = Literal["encoder", "frames"]
CASES: list[tuple[str, Site]] = [
    (name, site)
    for name, kind in METHODS.items()
    for site in ("encoder", "frames")
    if site in kind().sites
]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen(site: Site) -> Seen:
    """ROWS frames, numbered from 100 on."""
    tokens = Tokens.fresh(drawn(ROWS, EACH, 8, seed=1))
    grid, rows = Layout(1, SIDE, SIDE), torch.arange(100, 100 + ROWS)
    if site == "encoder":
        q, k = (drawn(ROWS, 2, EACH + 1, 4, seed=s) for s in (2, 3))
        visual = torch.arange(1, EACH + 1)
        attention = Attention(q, k, 0.5, causal=False)
        metric = k[:, :, 1:].mean(dim=1)
        return Seen(tokens, metric, grid, visual, attention, seed=7, rows=rows)
    pairs = drawn(ROWS, EACH, EACH, seed=4).softmax(dim=-1)
    keys = drawn(ROWS, EACH, 2, 4, seed=5)
    evidence = Evidence(pairs.mean(dim=1), keys, pairs)
    return Seen(tokens, keys.mean(dim=2), grid, evidence=evidence, seed=7, rows=rows)


def parts(whole: Seen, size: int) -> Iterator[Seen]:
    """The same rows, `size` at a time."""
    for at in torch.arange(ROWS).split(size):
        tokens, attention = whole.tokens, whole.attention
        assert whole.rows is not None
        yield replace(
            whole,
            tokens=Tokens(tokens.x[at], tokens.size[at], tokens.place[at]),
            metric=whole.metric[at],
            attention=attention and replace(attention, q=attention.q[at], k=attention.k[at]),
            evidence=whole.evidence and whole.evidence.rows(at),
            rows=whole.rows[at],
        )


@pytest.mark.parametrize(("name", "site"), CASES)
@pytest.mark.parametrize("size", [1, 4, 16])
def test_no_batch_changes_a_row(name: str, site: Site, size: int) -> None:
    method: Method = METHODS[name]()
    whole = reduce(method, seen(site), 9)
    cut = [reduce(method, part, 9) for part in parts(seen(site), size)]
    assert torch.equal(torch.cat([part.place for part in cut]), whole.place)
    torch.testing.assert_close(torch.cat([part.x for part in cut]), whole.x)


def distinct(places: Tensor) -> int:
    return len({tuple(row) for row in places.tolist()})


@pytest.mark.parametrize("site", ["encoder", "frames"])
def test_random_draws_anew_for_every_row(site: Site) -> None:
    """2 million ways to choose 9 of 25: no two of 40 draws meet."""
    before = seen(site)
    places = reduce(Random(), before, 9).place
    assert distinct(places) == ROWS
    assert not torch.equal(reduce(Random(), replace(before, seed=8), 9).place, places)
    shared = [len(set(a) & set(b)) for a, b in combinations(places.tolist(), 2)]
    assert sum(shared) / len(shared) == pytest.approx(9 * 9 / 25, rel=0.05)


def test_random_without_rows_draws_as_ever() -> None:
    """The clip and the LLM have no numbered rows; these are the draws of the published tables."""
    tokens = Tokens.fresh(torch.zeros(1, 30, 1))
    places = reduce(Random(), Seen(tokens, tokens.x, Layout(1, 1, 30), seed=3), 6).place
    assert places.tolist() == [[1, 3, 4, 6, 16, 22]]


@pytest.mark.parametrize("resident", [16, 10**6])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_video_s_frames_are_drawn_one_by_one(resident: int, chunk: int) -> None:
    """Whether they wait for the end or go while more come."""
    x = torch.zeros(64, EACH, 1)
    reducer = Reducer(Layout(1, SIDE, SIDE), 64 * 6, Random(), None, seed=3, resident=resident)
    for part in x.split(chunk):
        reducer.add(part)
    places = reducer.finish().place.view(64, 6) - EACH * torch.arange(64).unsqueeze(1)
    assert distinct(places) == 64


def test_of_a_run_of_frames_any_may_be_left() -> None:
    """64 runs of 8 frames that become one token each, pair by pair: every place of a run about 8
    times, and the second half of it as often as the first."""
    counts = torch.zeros(8)
    for seed in range(4):
        one = Layout(1, 1, 1)
        reducer = Reducer(one, 64, Random(), None, seed=seed, resident=16)
        reducer.add(torch.zeros(512, 1, 1))
        place = reducer.finish().place[0]
        assert torch.equal(place // 8, torch.arange(64))
        counts += torch.bincount(place % 8, minlength=8)
    assert float(counts.max()) < 52  # 32 each, a deviation of 5.3
    assert float(counts.min()) > 14


class Nothing(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_inside_a_tower_frames_keep_their_numbers(device: str) -> None:
    """Batches of 4 on a CPU and of 16 elsewhere."""
    numbers = tuple(range(3, 3 + 2 * ROWS, 2))
    within = Within(Random(), Even(), 9, seed=5, frames=numbers)
    found = []
    pixels = torch.arange(ROWS).view(-1, 1)
    for part, own in batches_within(pixels, within, torch.device(device)):
        assert list(own.frames) == [3 + 2 * int(i) for i in part]
        places = inside(own.frames)
        for number, place in zip(own.frames, places, strict=True):
            assert torch.equal(inside((number,))[0], place)
        found.append(places)
    assert distinct(torch.cat(found)) == ROWS


def inside(numbers: tuple[int, ...]) -> Tensor:
    """Places left of frames of these numbers, in a tower of four layers."""
    hidden = torch.zeros(len(numbers), EACH, 4)

    def show(layer: nn.Module, x: Tensor) -> Attention:
        return Attention(x.unsqueeze(1), x.unsqueeze(1), 1.0, causal=False)

    stage = Prune(Random(), Even())
    rows = torch.tensor(numbers)
    layers = [Nothing()] * 4
    out = run(layers, hidden, 0, (stage,), Layout(1, SIDE, SIDE), show, seed=5, rows=rows)
    return out.tokens.place


def test_frames_without_numbers_count_from_0() -> None:
    within = Within(Random(), Even(), 9)
    cut = batches_within(torch.zeros(6, 1), within, torch.device("cpu"))
    assert [own.frames for _, own in cut] == [(0, 1, 2, 3), (4, 5)]
