"""Tokens that leave inside the vision tower, to an exact budget, on both families' tiny towers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from tokenreduce.budget import Newline
from tokenreduce.engine.types import Sampling
from tokenreduce.errors import SettingError
from tokenreduce.inside import look_inside, patch_layout
from tokenreduce.methods.controls import Random
from tokenreduce.methods.tome import ToMe
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import load
from tokenreduce.models.vision import Within
from tokenreduce.schedule import Even

RANDOM = Within(Random(), Even(Fraction(0)), 1, seed=2)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LlavaVideo:
    loaded = load(str(checkpoint), device="cpu")
    assert isinstance(loaded, LlavaVideo)
    return loaded


def frames(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 98, 98, 3), dtype=torch.uint8, generator=generator)


def test_keeping_all_is_the_unpooled_tower(model: LlavaVideo) -> None:
    assert patch_layout(model.spec, 3).newline == "frame"
    pixels, newline = frames(3), model.newline()
    assert newline is not None
    left = look_inside(model, pixels, 10**6, RANDOM)
    plain = model.unpooled().encode(pixels)
    assert plain.shape[1] == 49
    ends = newline.expand(3, 1, -1)
    wanted = torch.cat([plain, ends], dim=1).flatten(0, 1)
    assert torch.equal(left.x[0], wanted)
    assert left.place.tolist() == [list(range(150))]


@pytest.mark.parametrize("newline", ["grid", "one_token", "no_token"])
@pytest.mark.parametrize("budget", [7, 8, 23, 100, 149])
@pytest.mark.parametrize("method", [Random(), ToMe()], ids=["random", "tome"])
def test_any_budget_is_exact(
    model: LlavaVideo, newline: Newline, budget: int, method: Random | ToMe
) -> None:
    spec = replace(model.spec, newline=newline)
    variant, layout = replace(model, spec=spec), patch_layout(spec, 6)
    within = Within(method, Even(Fraction(1, 2)), 1, proportional=True)
    left = look_inside(variant, frames(6), budget, within)
    assert left.count == min(budget, layout.available)
    assert (left.place.diff() > 0).all()
    assert int(left.place[0, -1]) < layout.available
    per_frame = torch.bincount(left.place[0] // layout.per_frame, minlength=6)[:6]
    assert int(per_frame.max() - per_frame.min()) <= 1 + (newline == "one_token")


def test_the_llm_answers_about_what_is_left(model: LlavaVideo) -> None:
    left = look_inside(model, frames(3), 20, RANDOM)
    prompt = model.prompt("What is it?", None, left, patch_layout(model.spec, 3))
    made = model.generate(prompt, (), Sampling(3), lambda _: None, lambda _: None)
    assert made.per_layer == (20,) * model.spec.text.layers


def test_less_than_a_token_a_frame_is_refused(model: LlavaVideo) -> None:
    with pytest.raises(SettingError, match="a budget of 6 or more"):
        look_inside(model, frames(6), 5, RANDOM)


def test_every_frame_is_drawn_for_itself(model: LlavaVideo) -> None:
    """20 frames in batches of 4, some with one token more: no two of them keep the same patches,
    and each those it would keep alone."""
    each, pixels = patch_layout(model.spec, 20).per_frame, frames(20)
    place = look_inside(model, pixels, 20 * 9 + 10, RANDOM).place[0]
    kept = [place[place // each == f] % each for f in range(20)]
    kept = [own[own < 49] for own in kept]
    assert len({tuple(own.tolist()) for own in kept}) == 20
    for f in (6, 13, 19):
        alone = replace(RANDOM, keep=len(kept[f]), frames=(f,))
        tokens, _ = model.look_within(pixels[f : f + 1], alone, frozenset())
        assert torch.equal(tokens.place[0], kept[f])
