"""Stages inside the vision tower through the whole library: budgets, sites, what they cost."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import tokenreduce
from tokenreduce import cost
from tokenreduce.compare import compare
from tokenreduce.demo import clips
from tokenreduce.engine.encoder import ToCount
from tokenreduce.errors import SettingError
from tokenreduce.events import Started
from tokenreduce.inside import look_inside
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.tome import ToMe
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.evidence import attention_of
from tokenreduce.models.llava15 import Llava15
from tokenreduce.plan import Overrides, settle
from tokenreduce.preset import Preset, Stage, load_preset
from tokenreduce.recipes import stages_of
from tokenreduce.result import Answer
from tokenreduce.schedule import Even, Ramp

Draw = Callable[..., Path]
QUESTION = "What colour is the star that appears briefly?"
PRESET = """
summary = "{method} inside the tower"
keep = "1/4"
[video]
frames = "1/2"
[[stage]]
at = "encoder"
method = {{ name = "{method}" }}
{more}
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = clips.make(tmp_path_factory.mktemp("clips"), 1, 31)
    return made.path


@pytest.fixture(scope="module")
def whole(clip: Path, demo: VideoModel) -> Answer:
    return tokenreduce.answer(clip, QUESTION, model=demo, preset="none", frames=8)


def inside(folder: Path, method: str, more: str = "") -> Preset:
    path = folder / f"{method}.toml"
    path.write_text(PRESET.format(method=method, more=more))
    return load_preset(str(path))


@pytest.mark.parametrize("method", ["tome", "evit", "ficoco-v", "aim-merge"])
def test_a_preset_reduces_inside_the_tower(
    tmp_path: Path, clip: Path, demo: VideoModel, whole: Answer, method: str
) -> None:
    preset = inside(tmp_path, method)
    for budget in (9, 335):
        found = tokenreduce.answer(clip, QUESTION, model=demo, preset=preset, budget=budget)
        assert (found.tokens.raw, found.tokens.merged) == (336, budget)
        assert found.tokens.per_layer == (budget,) * demo.spec.text.layers
        assert found.method == method
        assert found.flops.vision < whole.flops.vision
        assert found.flops.overhead > 0


def test_with_nothing_to_remove_it_is_the_unreduced_model(
    tmp_path: Path, clip: Path, demo: VideoModel, whole: Answer
) -> None:
    preset = inside(tmp_path, "tome")
    for found in (
        tokenreduce.answer(clip, QUESTION, model=demo, preset=preset, budget=336),
        tokenreduce.answer(clip, QUESTION, model=demo, preset=preset, keep=1),
    ):
        assert (found.answer, found.tokens) == (whole.answer, whole.tokens)
        assert found.flops == whole.flops


def test_the_tower_is_charged_where_tokens_leave_it(
    tmp_path: Path, clip: Path, demo: VideoModel
) -> None:
    """Three frames keep six patches and a newline, five keep five: counted layer by layer."""
    schedule = 'schedule = { name = "even", first = "1/2" }'
    preset = inside(tmp_path, "tome", schedule)
    found = tokenreduce.answer(clip, QUESTION, model=demo, preset=preset, budget=3 * 7 + 5 * 6)
    vision, text = demo.spec.vision, demo.spec.text
    wanted = 0
    for keep, frames in ((6, 3), (5, 5)):
        shape = ToCount(Even(Fraction(1, 2)), keep)
        left = [shape.kept(i, vision.layers, vision.patches) for i in range(vision.layers)]
        tower = cost.tower_cost(vision, [vision.patches, *left[:-1]])
        wanted += (tower + cost.projector_cost(vision, text, keep)).total * frames
    assert found.flops.vision == wanted


def test_less_than_a_patch_a_frame_is_refused_before_the_file_is_opened(
    tmp_path: Path, demo: VideoModel
) -> None:
    with pytest.raises(SettingError, match=r"a budget of 7 for 8 frames.* of 8 or more"):
        tokenreduce.answer(
            "/no/such.mp4", QUESTION, model=demo, preset=inside(tmp_path, "tome"), budget=7
        )


@pytest.mark.parametrize(
    "schedule",
    [
        'name = "full"',
        'name = "ramp", first = 1, last = 2',
        'name = "steps", after = [0], keep = 1',
    ],
)
def test_a_schedule_that_removes_nothing_is_refused(tmp_path: Path, schedule: str) -> None:
    with pytest.raises(SettingError, match=r"stage\[0\]: schedule \w+ removes nothing"):
        inside(tmp_path, "tome", f"schedule = {{ {schedule} }}")


def test_a_picture_in_tiles_is_refused(onevision: VideoModel, draw: Draw, tmp_path: Path) -> None:
    preset = inside(tmp_path, "tome")
    with pytest.raises(SettingError, match="looks at a picture in tiles"):
        tokenreduce.answer(draw(112, 56), "Q", model=onevision, preset=preset)
    paths = [draw(112, 56), draw(60, 60, "b.png", 1)]
    found = tokenreduce.answer(
        paths, "Q", model=onevision, preset=preset, budget=11, max_new_tokens=2
    )
    assert (found.tokens.raw, found.tokens.merged) == (2 * 17, 11)


@pytest.mark.parametrize("name", ["ficoco-v", "tome", "evit", "aim-merge"])
def test_a_model_without_pooling_reduces_at_the_site_of_the_papers(
    demo: VideoModel, llava15: VideoModel, name: str
) -> None:
    assert [stage.at for stage in stages_of(name, llava15.spec)] == ["encoder"]
    assert [stage.at for stage in stages_of(name, demo.spec)] == ["frames"]
    assert [stage.at for stage in stages_of(name)] == ["frames"]


def test_compositions_and_controls_on_a_model_without_pooling(llava15: VideoModel) -> None:
    merge, prune = stages_of("aim", llava15.spec)
    assert (merge.at, prune.at) == ("encoder", "llm")
    assert prune.planned == Ramp(Fraction(13, 32), Fraction(21, 32))
    assert [s.at for s in stages_of("ficoco-vl", llava15.spec)] == ["encoder", "llm"]
    for name in ("random", "uniform", "pooling", "prumerge", "visionzip"):
        assert [stage.at for stage in stages_of(name, llava15.spec)] == ["frames"]


def test_tome_attends_in_proportion_to_size(llava15: VideoModel) -> None:
    for name, wanted in (("tome", True), ("ficoco-v", False)):
        plan = settle(
            load_preset("uniform"), llava15.spec, Overrides(method=name), Sampling(seed=5)
        )
        assert plan.within is not None
        assert plan.within.proportional is wanted
        assert plan.within.seed == 5
        assert plan.merge is None
    assert Stage("encoder", ToMe()).proportional


def test_aim_for_images_merges_by_the_keys_of_the_last_layer(llava15: VideoModel) -> None:
    """43.75 % and 12.5 % of 576; of 25, layer by layer: keys of the last, then the projector."""
    assert list(AimMerge().rounds(576, 252)) == [288, 252]
    assert list(AimMerge().rounds(576, 72)) == [288, 144, 72]
    plan = settle(
        load_preset("uniform"),
        llava15.spec,
        Overrides(method="aim", keep=Fraction(7, 16)),
        Sampling(),
        [llava15.spec.layout(1)],
    )
    assert plan.within is not None
    assert plan.budget_for(25) == 10
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (1, 70, 70, 3), dtype=torch.uint8, generator=generator)
    left = look_inside(llava15, pixels, 10, plan.within)

    ours = cast(Llava15, llava15)
    with torch.no_grad():
        hidden = before = ours.embed(pixels)
        for layer in ours.layers:
            before, hidden = hidden, cast(Any, layer)(hidden, None)
        keys = attention_of(ours.layers[-1], before).k[0, :, 1:].mean(dim=0)
        values, place = hidden[0, 1:], list(range(25))
        for gone in (12, 3):
            values, keys, place = merged(values, keys, place, gone)
        wanted = ours.project(values[None])
    assert left.place[0].tolist() == place
    torch.testing.assert_close(left.x, wanted, rtol=1e-4, atol=1e-5)


def merged(x: Tensor, u: Tensor, place: list[int], gone: int) -> tuple[Tensor, Tensor, list[int]]:
    """One of AIM's rounds, token by token: by `u`, which goes where `x` goes."""
    unit = u / u.norm(dim=-1, keepdim=True)
    even, odd = range(0, len(place), 2), range(1, len(place), 2)
    best = {a: max(odd, key=lambda b: float(unit[a] @ unit[b])) for a in even}
    going = sorted(even, key=lambda a: -float(unit[a] @ unit[best[a]]))[:gone]
    stay = [i for i in range(len(place)) if i not in going]
    groups = [[i, *(a for a in going if best[a] == i)] for i in stay]

    def mean(values: Tensor) -> Tensor:
        return torch.stack([values[group].mean(dim=0) for group in groups])

    return mean(x), mean(u), [place[i] for i in stay]


def test_compared_beside_what_acts_after_the_tower(
    tmp_path: Path, clip: Path, demo: VideoModel
) -> None:
    told: list[Any] = []
    preset = inside(tmp_path, "ficoco-v")
    found = compare(
        clip,
        QUESTION,
        presets=[preset],
        methods=["random"],
        frames=8,
        model=demo,
        watch=told.append,
    )
    rows = {row.label: row for row in found.rows}
    assert list(rows) == ["full, 8 frames", "ficoco-v.toml", "random"]
    alone = tokenreduce.answer(clip, QUESTION, model=demo, preset=preset)
    row = rows["ficoco-v.toml"]
    assert (row.answer.answer, row.answer.tokens) == (alone.answer, alone.tokens)
    assert row.answer.flops == alone.flops
    assert row.seconds > row.answer.seconds.encode > 0
    assert rows["random"].answer.seconds.encode == 0
    parts = [event.part for event in told if isinstance(event, Started)]
    assert parts.count("decode") == parts.count("encode") == 1


def test_all_inside_needs_no_whole_features(tmp_path: Path, clip: Path, demo: VideoModel) -> None:
    told: list[Any] = []
    preset = inside(tmp_path, "tome")
    tokenreduce.answer(clip, QUESTION, model=demo, preset=preset, watch=told.append)
    parts = [event.part for event in told if isinstance(event, Started)]
    assert parts == ["probe", "decode", "encode", "encode", "prefill", "answer"]
