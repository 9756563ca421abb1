"""Pictures through the whole library: every method and budget, on all three ways to read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import tokenreduce
from tokenreduce import cost
from tokenreduce.errors import InputError, SettingError
from tokenreduce.models.base import VideoModel
from tokenreduce.recipes import recipe_names
from tokenreduce.subject import told_apart

Draw = Callable[..., Path]
NAMES = [name for name in recipe_names() if name != "fewer-frames"]
BEFORE = ["aim", "tome", "evit", "ficoco-v", "prumerge", "visionzip", "pooling", "vidcom2"]
QUESTION = "What colour is the circle?"


def ask(model: VideoModel, path: Any, **options: Any) -> tokenreduce.Answer:
    wanted = {"max_new_tokens": 2, "model": model, **options}
    return tokenreduce.answer(path, QUESTION, **wanted)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
@pytest.mark.parametrize("count", [1, 2])
def test_every_method_meets_a_mean_budget(
    demo: VideoModel, draw: Draw, name: str, count: int
) -> None:
    paths = [draw(90, 60, f"{i}.png", i) for i in range(count)]
    found = ask(demo, paths, method=name, mean_budget=20 * count)
    assert found.tokens.raw == 42 * count
    assert 17 * count <= found.tokens.mean_per_layer <= 20 * count
    assert found.flops.ratio_llm > 1


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("family", ["demo", "llava15", "onevision"])
def test_any_budget_is_exact(
    request: pytest.FixtureRequest, draw: Draw, family: str, name: str
) -> None:
    model = cast(VideoModel, request.getfixturevalue(family))
    path = draw(120, 70)
    if (family, name) == ("onevision", "ficoco-v"):
        with pytest.raises(SettingError, match="do not attend to each other"):
            ask(model, path, method=name, budget=9)
        return
    for budget in (1, 7, 24, 10**6):
        found = ask(model, path, method=name, budget=budget)
        assert found.tokens.merged == min(budget, found.tokens.raw) == found.tokens.per_layer[0]
        assert found.tokens.budget == budget


@pytest.mark.parametrize("preset", ["fast", "balanced", "accurate", "none", "uniform", "random"])
def test_presets_ignore_their_frames(llava15: VideoModel, draw: Draw, preset: str) -> None:
    paths = [draw(90, 60), draw(50, 80, "b.png", 1)]
    found = ask(llava15, paths, preset=preset)
    keep = tokenreduce.load_preset(preset).keep
    assert (found.tokens.raw, found.tokens.merged) == (50, int(50 * keep))
    assert (found.frames.requested, found.frames.decoded, found.frames.seconds) == (2, 2, ())
    assert [(one.width, one.height) for one in found.images] == [(90, 60), (50, 80)]


def test_a_picture_in_tiles_is_charged_for_each_of_them(onevision: VideoModel, draw: Draw) -> None:
    """112 x 56 is two tiles and the whole; 16 tokens, and 4 rows of 8 with a newline each."""
    found = ask(onevision, draw(112, 56), preset="none")
    assert found.tokens.raw == found.tokens.merged == 16 + 4 * 9
    vision, text = onevision.spec.vision, onevision.spec.text
    each = cost.tower_cost(vision) + cost.projector_cost(vision, text)
    assert found.flops.vision == 3 * each.total
    tome = ask(onevision, draw(112, 56), method="tome", budget=20)
    assert tome.tokens.merged == 20
    assert tome.flops.overhead > 0


def test_no_time_sentence(demo: VideoModel, draw: Draw) -> None:
    found = ask(demo, draw(9, 9), time_text=True)
    assert found.tokens.text == demo.text_tokens(QUESTION, None)
    assert any("--time-text" in warning for warning in found.warnings)


def test_a_model_that_takes_videos_alone(demo: VideoModel, draw: Draw) -> None:
    spec = replace(demo.spec, still=None)
    with pytest.raises(InputError, match=r"a.png: is a picture, and demo takes videos alone"):
        ask(replace(cast(Any, demo), spec=spec), draw(9, 9))


def test_a_picture_too_long_and_narrow(onevision: VideoModel, draw: Draw) -> None:
    with pytest.raises(InputError, match=r"a.png: 900 x 1 pixels are too long and narrow"):
        ask(onevision, draw(900, 1))


def test_no_file_at_all() -> None:
    with pytest.raises(InputError, match="no file"):
        told_apart([])
