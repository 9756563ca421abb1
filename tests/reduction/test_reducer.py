"""Frames' features become exactly the budgeted tokens, in raster order, newlines where they end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.budget import Layout, Newline, NewlineKeep
from tokenreduce.methods import METHODS
from tokenreduce.reducer import Reducer
from tokenreduce.tokens import Tokens

NEWLINE = torch.full((8,), 77.0)


def reduced(
    frames: int,
    budget: int,
    *,
    side: int = 6,
    newline: Newline = "grid",
    method: str | None = "aim-merge",
    rule: NewlineKeep = "share",
    chunk: int = 5,
) -> tuple[torch.Tensor, Tokens]:
    x = torch.randn(frames, side * side, 8, generator=torch.Generator().manual_seed(frames))
    reducer = Reducer(
        Layout(1, side, side, newline), budget, METHODS[method]() if method else None, NEWLINE, rule
    )
    for start in range(0, frames, chunk):
        reducer.add(x[start : start + chunk])
    return x, reducer.finish()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 1800),
    st.integers(1, 7),
    st.sampled_from(["grid", "frame", "one_token", "no_token"]),
    st.sampled_from(["aim-merge", "uniform", "random"]),
    st.sampled_from(["share", "frame", "none"]),
)
def test_exact_for_every_budget(
    frames: int, budget: int, side: int, newline: Newline, method: str, rule: NewlineKeep
) -> None:
    _, tokens = reduced(
        frames, budget, side=side, newline=newline, method=method, rule=rule, chunk=7
    )
    layout = Layout(frames, side, side, newline)
    assert tokens.x.shape == (1, min(budget, layout.available), 8)
    place = tokens.place[0]
    assert (place.diff() > 0).all()
    assert int(place[0]) >= 0
    assert int(place[-1]) < layout.available


@given(st.integers(1, 9), st.integers(1, 400))
def test_chunks_make_no_difference(chunk: int, budget: int) -> None:
    _, one = reduced(9, budget, chunk=9)
    _, other = reduced(9, budget, chunk=chunk)
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.place, other.place)


@pytest.mark.parametrize("newline", ["grid", "frame", "one_token", "no_token"])
def test_the_full_budget_is_the_model_s_own_sequence(newline: Newline) -> None:
    x, tokens = reduced(3, 10_000, newline=newline, method=None)
    rows = []
    for frame in x:
        for row in frame.view(6, 6, 8):
            rows += [*row, NEWLINE] if newline == "grid" else [*row]
        rows += [NEWLINE] if newline == "frame" else []
    rows += [NEWLINE] if newline == "one_token" else []
    assert torch.equal(tokens.x[0], torch.stack(rows))
    assert torch.equal(tokens.place[0], torch.arange(len(rows)))


def test_newlines_end_the_rows_that_survive() -> None:
    _, tokens = reduced(4, 4 * 21)
    is_newline = (tokens.x[0] == 77).all(dim=1)
    place = tokens.place[0]
    assert int(is_newline.sum()) == 4 * 3
    assert (place[is_newline] % 7 == 6).all()
    assert (place[~is_newline] % 7 != 6).all()
    row = place // 7
    for end in row[is_newline]:
        assert ((row == end) & ~is_newline).any(), "a newline ends a row of which nothing is left"


def test_below_one_token_a_frame_adjacent_frames_share_one() -> None:
    x, tokens = reduced(10, 4)
    assert tokens.count == 4
    assert tokens.size[0].sum() == 10 * 36
    assert tokens.size[0].tolist() == [72.0, 108.0, 72.0, 108.0]
    frame = tokens.place[0] // 42
    assert [
        start <= int(f) < stop
        for f, start, stop in zip(frame, (0, 2, 5, 7), (2, 5, 7, 10), strict=True)
    ] == [True] * 4
    assert float((tokens.x[0, 0] - x[0:2].mean(dim=(0, 1))).norm()) < float(x[0].norm())


def test_a_budget_that_needs_a_method_says_so() -> None:
    with pytest.raises(ValueError, match="no method"):
        reduced(4, 20, method=None)


def test_features_of_another_grid_are_refused() -> None:
    reducer = Reducer(Layout(1, 6, 6, "grid"), 10, None, NEWLINE)
    with pytest.raises(ValueError, match="not 6 x 6"):
        reducer.add(torch.zeros(2, 25, 8))
