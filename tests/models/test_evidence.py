"""What the tower's last layer shows: transformers' own eager attention weights, pooled by hand."""

from __future__ import annotations

from math import floor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from tokenreduce.models.evidence import attention_of, evidence_of, pooled
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec
from tokenreduce.seen import Evidence, Need

ALL: frozenset[Need] = frozenset({"salience", "keys", "attention"})
WIDTH, HEADS, PATCH = 24, 3, 2
POOLED = [("bilinear", 27, 14), ("average", 27, 13), ("max", 27, 13), ("bilinear", 9, 5)]
POOLED += [("average", 8, 4), ("bilinear", 2, 1)]


def spec(pool: str, side: int) -> ModelSpec:
    vision = VisionSpec(2, WIDTH, 32, HEADS, side * PATCH, PATCH)
    return ModelSpec("tiny", vision, TextSpec(1, 8, 8, 2, 1, 4, 9, 99), pool, "grid", 1, False)


def weights_of_side(pool: str, side: int, out: int) -> Tensor:
    """(out, side): how much of each patch is in each token, along one side of the frame."""
    weight = torch.zeros(out, side)
    for i in range(out):
        if pool == "bilinear":  # the middle of the token on the scale of the patches
            at = max((i + 0.5) * side / out - 0.5, 0.0)
            low = floor(at)
            weight[i, low] += 1 - (at - low)
            weight[i, min(low + 1, side - 1)] += at - low
        else:
            weight[i, 2 * i : 2 * i + 2] = 0.5
    return weight


def window(pool: str, side: int, out: int) -> Tensor:
    """(out x out, side x side), raster order on both sides; rows sum to 1."""
    one = weights_of_side(pool, side, out)
    return torch.einsum("ai,bj->abij", one, one).reshape(out * out, side * side)


class Looked:
    """A tiny tower over two frames: its last layer, what entered it and its own weights."""

    def __init__(self, side: int) -> None:
        torch.manual_seed(side)
        config = SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            image_size=side * PATCH,
            patch_size=PATCH,
            vision_use_head=False,
        )
        config._attn_implementation = "eager"
        model: Any = SiglipVisionModel(config).eval()
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:  # far from even attention
                parameter.data.normal_(0, 0.6)
        pixels = torch.randn(2, 3, side * PATCH, side * PATCH)
        with torch.no_grad():
            out = model(pixels, output_attentions=True, output_hidden_states=True)
            tower = getattr(model, "vision_model", model)
            self.layer: Any = tower.encoder.layers[-1]
            self.hidden: Tensor = out.hidden_states[-2]
            self.attention: Tensor = out.attentions[-1]  # (f, h, n, n)
            normed = self.layer.layer_norm1(self.hidden)
            self.keys: Tensor = self.layer.self_attn.k_proj(normed)  # (f, n, width)

    def shown(self, pool: str, side: int, needs: frozenset[Need] = ALL) -> Evidence:
        with torch.no_grad():
            return evidence_of(self.layer, self.hidden, needs, spec(pool, side))


@pytest.fixture(scope="module")
def looked() -> dict[int, Looked]:
    return {side: Looked(side) for side in {side for _, side, _ in POOLED}}


def close(ours: Tensor | None, theirs: Tensor, atol: float = 2e-6) -> None:
    assert ours is not None
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=2e-5)


def test_attention_is_the_towers_own(looked: dict[int, Looked]) -> None:
    tower = looked[9]
    with torch.no_grad():
        ours = attention_of(tower.layer, tower.hidden).weights(torch.arange(81))
    close(ours, tower.attention)
    assert float(tower.attention.max()) > 3 / 81, "attention too even to tell anything apart"


@pytest.mark.parametrize(("pool", "side", "out"), POOLED)
def test_evidence_is_pooled_as_by_hand(
    looked: dict[int, Looked], pool: str, side: int, out: int
) -> None:
    tower = looked[side]
    ours = tower.shown(pool, side)
    cell = window(pool, side, out)
    mean = tower.attention.mean(dim=1)
    close(ours.salience, mean.mean(dim=1) @ cell.T)
    # Of keys around 3, and torch takes bilinear positions in float32.
    close(ours.keys, (cell @ tower.keys).unflatten(2, (HEADS, -1)), atol=3e-5)
    pairs = cell @ mean @ cell.T
    close(ours.attention, pairs / pairs.sum(dim=-1, keepdim=True))
    assert not ours.has_class


@pytest.mark.parametrize(("pool", "side", "out"), POOLED)
def test_rows_of_pooled_attention_sum_to_one(
    looked: dict[int, Looked], pool: str, side: int, out: int
) -> None:
    pairs = looked[side].shown(pool, side).attention
    assert pairs is not None
    assert pairs.shape == (2, out * out, out * out)
    assert bool((pairs >= 0).all())
    close(pairs.sum(dim=-1), torch.ones(2, out * out))


def test_whole_windows_sum_what_is_attended(looked: dict[int, Looked]) -> None:
    """Where windows neither overlap nor leave patches out, nothing has to be scaled: the mean over
    the attending and the sum over the attended patches of each pair of cells."""
    ours = looked[8].shown("average", 8).attention
    mean = looked[8].attention.mean(dim=1)
    cut = mean.view(2, 4, 2, 4, 2, 4, 2, 4, 2)  # f, then (row, in it, column, in it) twice
    close(ours, cut.mean(dim=(2, 4)).sum(dim=(4, 6)).reshape(2, 16, 16))


@pytest.mark.parametrize("need", sorted(ALL))
def test_only_what_is_asked_for(looked: dict[int, Looked], need: Need) -> None:
    alone, every = looked[9].shown("bilinear", 9, frozenset({need})), looked[9].shown("bilinear", 9)
    for kind in ALL:
        part = getattr(alone, kind)
        if kind == need:
            close(part, getattr(every, kind))
        else:
            assert part is None
    assert looked[9].shown("bilinear", 9, frozenset()) == Evidence()


@pytest.mark.parametrize("pool", ["bilinear", "average"])
def test_means_are_kept_by_pooling(pool: str) -> None:
    grid = spec(pool, 27)
    even = pooled(torch.full((1, 729, 1), 3.0), grid)
    assert even.shape == (1, grid.side**2, 1)
    close(even, torch.full_like(even, 3.0))


def test_another_number_of_patches_is_refused(looked: dict[int, Looked]) -> None:
    with pytest.raises(ValueError, match="81 patches of a frame, not 8 x 8"):
        evidence_of(looked[9].layer, looked[9].hidden, ALL, spec("average", 8))


def test_all_frames_all_heads_and_all_pairs_are_never_held_at_once(
    looked: dict[int, Looked], largest_tensor: Any
) -> None:
    with largest_tensor() as largest:
        looked[27].shown("bilinear", 27)
    assert largest.numel < 2 * HEADS * 729 * 729
