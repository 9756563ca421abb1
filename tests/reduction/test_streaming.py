"""Frames as they come: the same bits whatever the chunks, bounded memory, the exact budget."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenreduce.budget import Layout, Newline
from tokenreduce.holding import AT_ONCE, Frames, Held
from tokenreduce.methods import METHODS
from tokenreduce.reducer import Reducer
from tokenreduce.seen import Evidence
from tokenreduce.tokens import Tokens

SIDE, CHANNELS, HEADS, WIDTH = 4, 8, 2, 3
EACH = SIDE * SIDE
NEWLINE = torch.full((CHANNELS,), 77.0)
Site = Literal["frames", "clip"]
CASES: list[tuple[str, Site]] = [
    (name, site)
    for name, kind in METHODS.items()
    for site in ("frames", "clip")
    if site in kind().sites
]


def features(frames: int, seed: int = 0) -> torch.Tensor:
    """Slowly changing, as a video is."""
    generator = torch.Generator().manual_seed(1000 * seed + frames)
    steps = torch.randn(frames, EACH, CHANNELS, generator=generator)
    return steps.cumsum(dim=0) / 4 + torch.randn(EACH, CHANNELS, generator=generator)


def evidence(frames: int, site: Site) -> Evidence:
    generator = torch.Generator().manual_seed(frames)
    pairs = torch.rand(frames, EACH, EACH, generator=generator).softmax(dim=-1)
    return Evidence(
        torch.rand(frames, EACH, generator=generator),
        torch.randn(frames, EACH, HEADS, WIDTH, generator=generator),
        pairs if site == "frames" else None,
    )


def run(
    name: str,
    site: Site,
    x: torch.Tensor,
    budget: int,
    *,
    chunk: int,
    resident: int,
    newline: Newline = "grid",
) -> Tokens:
    one = Layout(1, SIDE, SIDE, newline)
    reducer = Reducer(one, budget, METHODS[name](), NEWLINE, site=site, resident=resident)
    shown = evidence(x.shape[0], site)
    for part in torch.arange(x.shape[0]).split(chunk):
        reducer.add(x[part], shown.rows(part))
    return reducer.finish()


def same(one: Tokens, other: Tokens) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in ((one.x, other.x), (one.size, other.size), (one.place, other.place))
    )


@pytest.mark.parametrize(("name", "site"), CASES)
@pytest.mark.parametrize("budget", [700, 150, 30])
def test_chunks_change_no_bit(name: str, site: Site, budget: int) -> None:
    """From more tokens a frame than fit to fewer than one; 16 are held of 100 frames' 1,600."""
    x = features(100)
    whole = run(name, site, x, budget, chunk=100, resident=16)
    assert whole.count == budget
    assert (whole.place[0].diff() > 0).all()
    assert torch.isfinite(whole.x).all()
    for chunk in (1, 33):
        assert same(run(name, site, x, budget, chunk=chunk, resident=16), whole), chunk


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 900),
    st.sampled_from(["grid", "frame", "one_token", "no_token"]),
    st.sampled_from(["aim-merge", "tome", "drift-merge", "uniform"]),
)
@example(5, 17, "frame", "drift-merge")  # a frame keeps no token, so no newline either
def test_exact_however_little_is_held(
    frames: int, budget: int, newline: Newline, name: str
) -> None:
    site: Site = "clip" if name == "drift-merge" else "frames"
    tokens = run(name, site, features(frames), budget, chunk=9, resident=1, newline=newline)
    layout = Layout(frames, SIDE, SIDE, newline)
    assert tokens.count == min(budget, layout.available)
    assert (tokens.place[0].diff() > 0).all()
    assert int(tokens.place[0, -1]) < layout.available


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 90), st.integers(1, 7), st.integers(0, 19))
def test_aim_ends_where_it_would_have_ended(frames: int, each: int, more: int) -> None:
    """At one token a frame or more, reducing while frames come is reducing at the end."""
    x, budget = features(frames), frames * each + more
    held = run("aim-merge", "frames", x, budget, chunk=5, resident=1)
    assert same(held, run("aim-merge", "frames", x, budget, chunk=5, resident=10**6))


@pytest.mark.parametrize(("name", "site"), [("aim-merge", "frames"), ("drift-merge", "clip")])
def test_what_is_held_does_not_grow(name: str, site: Site) -> None:
    budget = 40
    most = []
    for frames in (200, 800):
        one = Layout(1, SIDE, SIDE, "grid")
        reducer = Reducer(one, budget, METHODS[name](), NEWLINE, site=site, resident=100)
        seen = 0
        for frame in features(frames).split(1):
            reducer.add(frame)
            seen = max(seen, tokens_held(reducer))
        most.append(seen)
        assert reducer.frames == frames
        assert reducer.finish().count == budget
    assert most[0] > budget
    assert max(most) <= 100 + AT_ONCE * EACH


@pytest.mark.parametrize("resident", [100, 10**6])
def test_what_is_held_lies_in_few_tensors(resident: int) -> None:
    """And in none that is larger than what is read of it: either would keep far more memory from
    use than the tokens take."""
    x, shown = features(900), evidence(900, "frames")
    reducer = Reducer(Layout(1, SIDE, SIDE), 40, METHODS["evit"](), None, resident=resident)
    for groups, part in enumerate(torch.arange(900).split(AT_ONCE), 1):
        reducer.add(x[part], shown.rows(part))
        held = reducer._held
        assert isinstance(held, Frames)
        assert len(held._held) <= groups.bit_length() + 1
        for tensor in (block.tokens.x for block in held._held):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert reducer.finish().count == 40


def tokens_held(reducer: Reducer) -> int:
    held = reducer._held
    if hasattr(held, "_seen"):
        return 0 if held._seen is None else int(held._seen.tokens.count)
    groups: list[Held] = held._held
    return sum(group.tokens.rows * group.tokens.count for group in groups)


def test_early_and_late_frames_fare_alike() -> None:
    """Each run of frames that became one token is as long as any other, but for the last."""
    tokens = run("aim-merge", "frames", features(256), 32, chunk=3, resident=1, newline="no_token")
    assert tokens.count == 32
    first, last = tokens.size[0, :16].sum(), tokens.size[0, 16:].sum()
    assert float(tokens.size.sum()) == 256 * EACH
    assert 0.8 < float(first / last) < 1.25


def test_runs_of_frames_merge_into_their_first() -> None:
    """32 frames of one cell to 4 tokens: each stands where its run begins."""
    x = torch.randn(32, 1, CHANNELS, generator=torch.Generator().manual_seed(3))
    for name, resident in (("aim-merge", 10**6), ("aim-merge", 1), ("tome", 1)):
        reducer = Reducer(Layout(1, 1, 1), 4, METHODS[name](), None, resident=resident)
        reducer.add(x)
        tokens = reducer.finish()
        assert tokens.place.tolist() == [[0, 8, 16, 24]]
        assert tokens.size.tolist() == [[8.0] * 4]


@pytest.mark.parametrize("frames", [17, 100, 333])
@pytest.mark.parametrize("name", ["aim-merge", "random", "evit"])
def test_one_token_of_many_frames(frames: int, name: str) -> None:
    """Fewer tokens than groups of frames: runs are joined across groups."""
    for budget in (1, 2, 3):
        tokens = run(name, "frames", features(frames), budget, chunk=16, resident=1)
        assert tokens.count == budget


def test_a_late_budget_is_at_most_the_announced_one() -> None:
    reducer = Reducer(Layout(1, SIDE, SIDE), 50, METHODS["aim-merge"](), None)
    reducer.add(features(10))
    with pytest.raises(ValueError, match="announced"):
        reducer.finish(51)
    assert reducer.finish(20).count == 20


def test_a_clip_that_fits_is_merged_as_a_whole() -> None:
    x = features(30)
    held = run("drift-merge", "clip", x, 300, chunk=4, resident=1)  # twice the budget holds all
    assert same(held, run("drift-merge", "clip", x, 300, chunk=30, resident=10**6))
