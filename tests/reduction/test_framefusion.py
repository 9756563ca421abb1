"""FrameFusion against golden numbers of the official code, and its exact counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.methods.framefusion import FrameFusion, similarities
from tokenreduce.paradigm import reduce
from tokenreduce.seen import Seen
from tokenreduce.solving import per_layer
from tokenreduce.tokens import Attention, Tokens

GOLDEN = Path(__file__).parent.parent / "golden" / "framefusion"
META: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text())
DATA = load_file(GOLDEN / "cases.safetensors")
CALLS = [(case, i) for case, it in META["cases"].items() for i in range(len(it["calls"]))]
BY_THRESHOLD = [
    (case, i) for case, i in CALLS if META["cases"][case]["calls"][i].get("rule") == "threshold"
]


def entering(case: str, call: int) -> tuple[dict[str, Any], Seen]:
    """The call's own numbers, and what it sees, without attention."""
    it = META["cases"][case]
    about = it["calls"][call]
    of = it.get("x_of", about.get("x_of", f"{case}/call{call}"))
    x, place = DATA[f"{of}/x"].unsqueeze(0), DATA[f"{of}/place"].unsqueeze(0)
    tokens = Tokens(x, torch.ones(place.shape), place)
    newline: Any = "grid" if it["newline"] else "no_token"
    grid = Layout(META["frames"], META["rows"], META["columns"], newline)
    assert grid.per_frame == it["pitch"]
    return about, Seen(tokens, x, grid)


def inside(before: Seen, q: Tensor, k: Tensor, visual: Tensor) -> Seen:
    attention = Attention(q, k, q.shape[-1] ** -0.5, causal=True)
    return Seen(before.tokens, before.metric, before.grid, visual, attention)


def anywhere(before: Seen) -> Seen:
    """Inside the LLM, where the tokens that merging leaves are scored by drawn attention."""
    n, generator = before.tokens.count, torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, h, n + 5, 4, generator=generator) for h in (4, 2))
    return inside(before, q, k, torch.arange(3, n + 3))


@pytest.mark.parametrize(("case", "call"), CALLS)
def test_every_official_call(case: str, call: int) -> None:
    about, before = entering(case, call)
    kept = DATA[f"{case}/call{call}/kept"].tolist()
    if about["step"] == "prune":
        part = [DATA[f"{case}/call{call}/{key}"] for key in ("q", "k", "visual")]
        # Nothing is that similar: the pruning alone.
        after = reduce(FrameFusion(similarity=1.0), inside(before, *part), about["m"])
        assert after.place[0].tolist() == kept
        return
    official = DATA[f"{case}/call{call}/similarity"]
    alike = similarities(before)[0]
    assert torch.equal(alike.isfinite(), official > -2)
    alike = alike.masked_fill(~alike.isfinite(), -2)
    torch.testing.assert_close(alike, official, rtol=0, atol=1e-5)
    after = reduce(FrameFusion(), before, about["m"])
    assert after.place[0].tolist() == kept
    torch.testing.assert_close(after.x[0], DATA[f"{case}/call{call}/y"], rtol=0, atol=1e-5)
    root = DATA[f"{case}/call{call}/root"]
    assert after.size[0].tolist() == [float((root == place).sum()) for place in kept]


@pytest.mark.parametrize(("case", "call"), BY_THRESHOLD)
def test_the_threshold_inside_the_llm(case: str, call: int) -> None:
    """Merging stops at the threshold, where the official call does, and pruning takes the rest."""
    about, before = entering(case, call)
    method = FrameFusion(similarity=META["cases"][case]["similarity"])
    merged = reduce(method, anywhere(before), about["m"])
    torch.testing.assert_close(merged.x[0], DATA[f"{case}/call{call}/y"], rtol=0, atol=1e-5)
    fewer = reduce(method, anywhere(before), about["m"] - 5)
    found = torch.searchsorted(merged.place[0], fewer.place[0].contiguous())
    assert torch.equal(fewer.place[0], merged.place[0, found])
    assert torch.equal(fewer.x[0], merged.x[0, found])
    assert torch.equal(fewer.size[0], merged.size[0, found])  # pruned roots took theirs along


def test_the_usual_schedule_is_a_cost_of_three_tenths() -> None:
    """On 28 layers: three see all, and the mean over all is .3 of the tokens."""
    assert FrameFusion.usual is not None
    seen_by = per_layer([FrameFusion.usual], 28, 125 * 28)
    assert seen_by == (3500,) * 3 + (756,) * 25
    assert sum(seen_by) == 28 * 0.3 * 3500


def clip(frames: int, rows: int, columns: int, seed: int = 0) -> Seen:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, frames * rows * columns, 6, generator=generator)
    return Seen(Tokens.fresh(x), x, Layout(frames, rows, columns))


def test_a_run_merges_whole_into_the_first_of_it() -> None:
    x = torch.tensor([[1.0, 0], [0, 1], [2, 0.1], [1, -1], [4, 0.1], [-1, 1]]).unsqueeze(0)
    after = reduce(FrameFusion(), Seen(Tokens.fresh(x), x, Layout(3, 1, 2)), 4)
    assert after.place.tolist() == [[0, 1, 3, 5]]
    torch.testing.assert_close(after.x[0, 0], torch.tensor([7 / 3, 0.2 / 3]))
    assert after.size.tolist() == [[3, 1, 1, 1]]


def test_a_mean_does_not_ask_what_merged_before() -> None:
    x = torch.tensor([[2.0, 0], [5, 0]]).unsqueeze(0)
    tokens = Tokens(x, torch.tensor([[3.0, 1]]), torch.tensor([[0, 1]]))
    after = reduce(FrameFusion(), Seen(tokens, x, Layout(2, 1, 1)), 1)
    assert after.x.tolist() == [[[3.5, 0]]]
    assert after.size.tolist() == [[4]]


def test_below_the_first_frame_an_even_stride_of_whole_runs_stays() -> None:
    before = clip(5, 2, 3)
    after = reduce(FrameFusion(), before, 3)
    assert after.place.tolist() == [[1, 3, 5]]
    assert after.size.tolist() == [[5, 5, 5]]
    mean = before.tokens.x.view(5, 6, 6).mean(dim=0)
    torch.testing.assert_close(after.x[0], mean[[1, 3, 5]])
    assert reduce(FrameFusion(), clip(1, 3, 3), 1).place.tolist() == [[4]]


def test_the_newline_after_the_video_is_like_no_other() -> None:
    x = torch.ones(1, 9, 4)
    before = Seen(Tokens.fresh(x), x, Layout(4, 1, 2, "one_token"))
    assert reduce(FrameFusion(), before, 3).place.tolist() == [[0, 1, 8]]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.data())
def test_any_count_of_any_part_of_a_clip(f: int, r: int, c: int, data: st.DataObject) -> None:
    before = clip(f, r, c, data.draw(st.integers(0, 99)))
    every = list(range(f * r * c))
    some = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    tokens = before.tokens.take(torch.tensor([some]))
    part = Seen(tokens, tokens.x, before.grid)
    keep = data.draw(st.integers(0, len(some)))
    for here in (part, anywhere(part)):
        after = reduce(FrameFusion(), here, keep)
        assert after.count == keep
        assert (after.place.diff(dim=1) > 0).all()
        assert torch.isfinite(after.x).all()


@pytest.mark.parametrize(("cosine", "sizes"), [(0.61, [2, 1, 1]), (0.59, [1, 1, 1])])
def test_by_default_six_tenths_are_similar(cosine: float, sizes: list[int]) -> None:
    """Inside the LLM; what is less alike is pruned, not merged."""
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [cosine, 0, (1 - cosine**2) ** 0.5], [0, 0, 1]])
    tokens = Tokens.fresh(x.unsqueeze(0))
    after = reduce(FrameFusion(), anywhere(Seen(tokens, tokens.x, Layout(2, 1, 2))), 3)
    assert after.size[0].tolist() == sizes


def test_zeros_are_similar_to_nothing() -> None:
    x = torch.zeros(1, 4, 3)
    before = Seen(Tokens.fresh(x), x, Layout(2, 1, 2))
    assert similarities(before)[0, 2:].tolist() == [0, 0]
    assert torch.isfinite(reduce(FrameFusion(), before, 2).x).all()


def test_an_impossible_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match="similarity 2"):
        FrameFusion(similarity=2)
