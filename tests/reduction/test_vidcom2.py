"""VidCom2 against golden numbers of the official code, and what ours promises beyond it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tokenreduce.budget import Layout
from tokenreduce.methods.vidcom2 import VidCom2, lowest, shared
from tokenreduce.paradigm import reduce
from tokenreduce.seen import Seen
from tokenreduce.tokens import Tokens

GOLDEN = Path(__file__).parent.parent / "golden" / "vidcom2"
META: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text())
DATA = load_file(GOLDEN / "cases.safetensors")
FRAMES, EACH = 4, 36
FRAME = torch.arange(FRAMES).repeat_interleave(EACH)
RATIOS = [(case, ratio) for case, it in META["cases"].items() for ratio in it["scales"]]


@pytest.mark.parametrize("case", META["cases"])
def test_channels_and_similarities(case: str) -> None:
    x = DATA[f"{case}/x"]
    method = VidCom2()
    assert method.steady(x).tolist() == sorted(DATA[f"{case}/channels"].tolist())
    video, own = method.similarity(x, FRAME, FRAMES)
    torch.testing.assert_close(video, DATA[f"{case}/video_score"].flatten(), rtol=0, atol=1e-5)
    torch.testing.assert_close(own, DATA[f"{case}/frame_score"].flatten(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("case", "ratio"), RATIOS)
def test_scales_counts_and_choice(case: str, ratio: str) -> None:
    """Shares of the frames, our counts of the official total, and what given counts keep."""
    method, base = VidCom2(), float(ratio)
    video, own = method.similarity(DATA[f"{case}/x"], FRAME, FRAMES)
    scales, counts = DATA[f"{case}/{ratio}/scales"], DATA[f"{case}/{ratio}/counts"].tolist()
    ours = method.scales(video, FRAME, FRAMES)
    torch.testing.assert_close((base * ours).clamp_max(1), scales, rtol=0, atol=1e-5)
    kept = DATA[f"{case}/{ratio}/kept"]
    assert lowest(video + own, FRAME, counts).tolist() == kept.tolist()
    assert shared(sum(counts), ours, [EACH] * FRAMES) == counts


@pytest.mark.parametrize(("case", "ratio"), RATIOS)
def test_the_official_choice_end_to_end(case: str, ratio: str) -> None:
    """In every golden case the largest remainders are what the official code rounds to."""
    x, kept = DATA[f"{case}/x"].unsqueeze(0), DATA[f"{case}/{ratio}/kept"].tolist()
    tokens = Tokens.fresh(x)
    after = reduce(VidCom2(), Seen(tokens, x, Layout(FRAMES, 6, 6)), len(kept))
    assert after.place[0].tolist() == kept


@given(st.data())
def test_counts_are_exact_within_frames_and_leave_none_empty(data: st.DataObject) -> None:
    most = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    weight = st.floats(0, 2, allow_nan=False)
    scales = data.draw(st.lists(weight, min_size=len(most), max_size=len(most)))
    keep = data.draw(st.integers(0, sum(most)))
    counts = shared(keep, torch.tensor(scales), most)
    assert sum(counts) == keep
    assert all(0 <= count <= limit for count, limit in zip(counts, most, strict=True))
    if keep >= len(most):
        assert min(counts) >= 1


def test_a_frame_unlike_the_others_gets_more_and_full_ones_pass_on() -> None:
    assert shared(40, torch.tensor([1.75, 0.75, 0.75, 0.75]), [36] * 4) == [18, 8, 7, 7]
    assert shared(100, torch.tensor([1.75, 0.75, 0.75, 0.75]), [36] * 4) == [36, 22, 21, 21]
    assert shared(2, torch.tensor([0.75, 0.75, 1.75, 0.75]), [36] * 4) == [1, 0, 1, 0]


@given(st.integers(1, 30), st.integers(0, 99))
def test_any_subset_of_the_clip_meets_any_count(keep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(60, generator=generator)[:31].sort().values.unsqueeze(0)
    x = torch.randn(1, 60, 7, generator=generator)
    tokens = Tokens.fresh(x).take(some)
    after = reduce(VidCom2(), Seen(tokens, tokens.x, Layout(5, 3, 4)), keep)
    assert after.count == keep
    assert set(after.place[0].tolist()) <= set(some[0].tolist())


@pytest.mark.parametrize(
    "numbers", [{"temperature": 0.0}, {"widths": ()}, {"widths": (1.0, 0.0)}, {"channels": 0}]
)
def test_impossible_numbers_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        VidCom2(**numbers)
