"""Methods inside the LLM against golden numbers of the official functions and their equations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.methods.fastv import FastV
from tokenreduce.methods.pyramid_drop import PyramidDrop
from tokenreduce.paradigm import reduce
from tokenreduce.seen import Seen
from tokenreduce.tokens import Attention, Tokens

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    cases: dict[str, Any] = json.loads((GOLDEN / name / "cases.json").read_text())
    return cases, load_file(GOLDEN / name / "cases.safetensors")


FASTV, FASTV_DATA = golden("fastv")
PDROP, PDROP_DATA = golden("pyramiddrop")


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
