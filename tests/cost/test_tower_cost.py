"""A vision tower in which tokens leave: its cost is what torch counts, under every schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from tokenreduce import cost, overhead
from tokenreduce.budget import Layout
from tokenreduce.cost import Through
from tokenreduce.engine.encoder import ToCount, run
from tokenreduce.engine.types import Prune
from tokenreduce.methods.evit import EViT
from tokenreduce.methods.ficoco_v import FiCoCoV
from tokenreduce.methods.prumerge import PruMerge
from tokenreduce.methods.tome import ToMe
from tokenreduce.models.evidence import attention_of, evidence_of
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec
from tokenreduce.paradigm import Method
from tokenreduce.schedule import SCHEDULES, Even, Full, Levels, Once, Ramp, Schedule, Steps

FRAMES, SIDE = 2, 6
CLASSLESS = VisionSpec(8, 32, 48, 4, 14 * SIDE, 14)
CLASSED = replace(CLASSLESS, classes=1)
TEXT = TextSpec(4, 40, 128, 4, 2, 16, 100, 4096)
HALVES = (Fraction(1, 4), Fraction(1, 2))
SHAPES: list[Schedule] = [
    Full(),
    Ramp(Fraction(1, 4), Fraction(3, 4)),
    Once(Fraction(1, 2), Fraction(1, 2)),
    Even(Fraction(1, 2)),
    Steps(HALVES, Fraction(1, 2)),
    Levels(HALVES, (Fraction(2, 3), Fraction(1, 3))),
]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=[CLASSED, CLASSLESS], ids=["class", "no class"])
def vision(request: pytest.FixtureRequest) -> VisionSpec:
    assert isinstance(request.param, VisionSpec)
    return request.param


def made(vision: VisionSpec) -> Any:
    """A tower of that size by transformers, CLIP's where there is a class token."""
    sizes: Any = {
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp_width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }
    tower: Any
    if vision.classes:
        tower = CLIPVisionModel(CLIPVisionConfig(**sizes))
    else:
        tower = SiglipVisionModel(SiglipVisionConfig(**sizes, vision_use_head=False))
    tower.set_attn_implementation("eager")  # a fused kernel would hide its products
    return tower.eval()


def test_every_schedule_is_among_the_shapes() -> None:
    assert {type(shape) for shape in SHAPES} == set(SCHEDULES.values())


@pytest.mark.parametrize("method", [EViT(), ToMe(), FiCoCoV()], ids=["evit", "tome", "ficoco-v"])
@pytest.mark.parametrize("shape", SHAPES, ids=list(SCHEDULES))
def test_a_tower_in_which_tokens_leave(vision: VisionSpec, shape: Schedule, method: Method) -> None:
    """Embedding, layers, projector, and choosing what leaves."""
    schedule = shape if isinstance(shape, Full) else ToCount(shape, 9)
    tower, pixels = made(vision), torch.randn(FRAMES, 3, vision.image_size, vision.image_size)
    projector = nn.Sequential(
        nn.Linear(vision.width, TEXT.width), nn.Linear(TEXT.width, TEXT.width)
    )
    stages = [Prune(method, schedule)]
    with FlopCounterMode(display=False) as counted:
        embedded = tower.embeddings(pixels)
        layers, grid = tower.encoder.layers, Layout(1, SIDE, SIDE)
        out = run(layers, embedded, vision.classes, stages, grid, attention_of)
        projector(out.tokens.x)
    part = Through.of(vision, FRAMES, schedule)
    assert part == Through(FRAMES, out.per_layer, out.tokens.count)
    spec = ModelSpec("tiny", vision, TEXT, "none", "no_token", 1, time_text=False)
    spent = cost.vision_cost(spec, [part]) + overhead.inside_encoder(stages, vision, part)
    assert counted.get_total_flops() == spent.matmul


@pytest.mark.parametrize(
    "method", [ToMe(), EViT(), PruMerge(), FiCoCoV()], ids=["tome", "evit", "prumerge", "ficoco-v"]
)
def test_what_the_last_layer_shows(vision: VisionSpec, method: Method) -> None:
    spec = ModelSpec("tiny", vision, TEXT, "none", "no_token", 1, time_text=False)
    hidden = torch.randn(1, vision.patches + vision.classes, vision.width)
    layer = made(vision).encoder.layers[-1]
    with FlopCounterMode(display=False) as counted:
        evidence_of(layer, hidden, method.needs, spec)
    assert counted.get_total_flops() == overhead.shown(method, vision).matmul > 0


def test_only_what_leaves_is_saved() -> None:
    """FiCoCo-V's site in LLaVA-1.5's CLIP: 12 of 23 layers see all, then evenly down to 58."""
    assert FiCoCoV.usual is not None
    clip = VisionSpec(23, 1024, 4096, 16, 336, 14, classes=1)
    vicuna = TextSpec(32, 4096, 11008, 32, 32, 128, 32000, 4096)
    spec = ModelSpec("llava-1.5", clip, vicuna, "none", "no_token", 1, time_text=False)
    part = Through.of(clip, 1, ToCount(FiCoCoV.usual, 58))
    assert part.per_layer[:14] == (*(576,) * 12, 533, 490)  # 518 / 12 in each layer
    assert part.per_layer[-1] > part.left == 58
    whole = cost.flops(spec, 1, 576, [576] * 32, 60)
    less = cost.flops(spec, 1, 576, [58] * 32, 60, within=[part])
    assert cost.tower_cost(clip, [576] * 23) == cost.tower_cost(clip)
    assert 0.7 < less.vision / whole.vision < 0.8
    saved = whole.vision + whole.llm - less.vision - less.llm
    assert less.ratio_total == (less.vision + less.llm + saved) / (less.vision + less.llm)


def test_a_class_token_is_charged_in_every_layer() -> None:
    more = cost.tower_cost(CLASSED).matmul - cost.tower_cost(CLASSLESS).matmul
    weights = 4 * 32**2 + 2 * 32 * 48
    assert more == 8 * (2 * weights + 4 * 32 * (37**2 - 36**2))


def test_frames_may_lose_different_counts() -> None:
    spec = ModelSpec("tiny", CLASSED, TEXT, "none", "no_token", 1, time_text=False)
    parts = [Through.of(CLASSED, f, ToCount(Even(), keep)) for f, keep in ((3, 9), (1, 10))]
    alone = [cost.vision_cost(spec, [part]) for part in parts]
    assert cost.vision_cost(spec, parts) == cost.summed(alone)


def test_counts_that_do_not_match_are_refused() -> None:
    spec = ModelSpec("tiny", CLASSED, TEXT, "none", "no_token", 1, time_text=False)
    with pytest.raises(ValueError, match="7 counts for a model of 8 layers"):
        cost.tower_cost(CLASSED, [36] * 7)
    part = Through.of(CLASSED, 3, Full())
    with pytest.raises(ValueError, match="3 frames went through, not 4"):
        cost.flops(spec, 4, 9, [9] * 4, 5, within=[part])
