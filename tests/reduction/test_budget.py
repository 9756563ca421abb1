"""Budgets are exact, for any video, any layout and any rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.budget import Layout, Newline, NewlineKeep, allot, newline_rows, newlines_of

layouts = st.builds(
    Layout,
    frames=st.integers(1, 300),
    rows=st.integers(1, 14),
    columns=st.integers(1, 14),
    newline=st.sampled_from(["grid", "frame", "one_token", "no_token"]),
)
rules = st.sampled_from(["share", "frame", "none"])


@given(layouts, st.integers(1, 70_000), rules)
def test_every_budget_is_met_exactly(layout: Layout, budget: int, rule: NewlineKeep) -> None:
    allotment = allot(layout, budget, rule)
    assert allotment.total == min(budget, layout.available)


@given(layouts, st.integers(1, 70_000), rules)
def test_shares_cover_the_video_in_order(layout: Layout, budget: int, rule: NewlineKeep) -> None:
    shares = allot(layout, budget, rule).shares
    bounds = [shares[0].start, *(share.stop for share in shares)]
    assert bounds[0] == 0
    assert bounds[-1] == layout.frames
    assert [share.start for share in shares] == bounds[:-1]
    for share in shares:
        assert 1 <= share.features <= layout.rows * layout.columns
        assert 0 <= share.newlines <= layout.newlines_per_frame


@given(layouts, st.integers(1, 70_000))
def test_the_remainder_is_spread_evenly(layout: Layout, budget: int) -> None:
    counts = [s.features + s.newlines for s in allot(layout, budget).shares]
    assert max(counts) - min(counts) <= 1
    lengths = [s.stop - s.start for s in allot(layout, budget).shares]
    assert max(lengths) - min(lengths) <= 1


@given(layouts, rules)
def test_the_full_budget_is_the_raw_layout(layout: Layout, rule: NewlineKeep) -> None:
    allotment = allot(layout, layout.available, rule)
    assert all(s.features == layout.rows * layout.columns for s in allotment.shares)
    assert all(s.newlines == layout.newlines_per_frame for s in allotment.shares)
    assert allotment.trailing == layout.trailing


@pytest.mark.parametrize(
    ("allotted", "newlines"), [(210, 14), (105, 7), (52, 3), (26, 1), (14, 0), (1, 0)]
)
def test_newlines_are_aims_own_counts(allotted: int, newlines: int) -> None:
    """spec: 196, 98, 49, 25 features and 14, 7, 3, 1 newlines (arXiv 2412.03248, fault 9)."""
    assert newlines_of(Layout(1, 14, 14, "grid"), allotted) == newlines


def test_one_token_shows_something() -> None:
    for newline in ("grid", "frame", "one_token", "no_token"):
        allotment = allot(Layout(8, 6, 6, _newline(newline)), 1)
        assert [(s.features, s.newlines) for s in allotment.shares] == [(1, 0)]
        assert allotment.trailing == 0


def _newline(name: str) -> Newline:
    names: dict[str, Newline] = {
        "grid": "grid",
        "frame": "frame",
        "one_token": "one_token",
        "no_token": "no_token",
    }
    return names[name]


@given(st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=14), st.data())
def test_surviving_rows_end_evenly(rows: list[int], data: st.DataObject) -> None:
    rows = sorted(rows)
    newlines = data.draw(st.integers(1, len(rows)))
    chosen = newline_rows(rows, newlines)
    assert len(set(chosen)) == newlines
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(rows)
    assert chosen[-1] == rows[-1]


@pytest.mark.parametrize(("frames", "budget"), [(4, 0), (4, -1), (0, 5)])
def test_nothing_cannot_be_shared_out(frames: int, budget: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        allot(Layout(frames, 6, 6, "grid"), budget)
