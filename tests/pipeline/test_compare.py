"""Settings side by side: shared decoding and encoding, equal means, and the answers of `answer`."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenreduce
from tokenreduce import cells, memory, replying, viewing
from tokenreduce import compare as comparing
from tokenreduce.compare import Refused, Row, compare
from tokenreduce.demo import clips
from tokenreduce.errors import CapacityError, InputError, SettingError
from tokenreduce.events import Setting, Started, Warned
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.llava_config import read_spec as read_config
from tokenreduce.models.load import load
from tokenreduce.preset import Preset, load_preset
from tokenreduce.recipes import recipe_names
from tokenreduce.result import Seconds

QUESTION = "What colour is the star that appears briefly?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = clips.make(tmp_path_factory.mktemp("clips"), 1, 31)
    return made.path


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load("demo", device="cpu")


def test_every_method_at_one_mean_of_tokens_a_layer(clip: Path, model: VideoModel) -> None:
    began: list[Any] = []
    names = [name for name in recipe_names() if name not in ("none", "fewer-frames")]
    found = compare(
        clip,
        QUESTION,
        methods=names,
        mean_budgets=[240],
        frames=16,
        model=model,
        watch=began.append,
    )
    full, *rows = found.rows
    assert (full.label, full.same, full.answer.tokens.merged) == ("full, 16 frames", None, 672)
    assert [row.label for row in rows] == [f"{name} mean 240" for name in names]
    for row in rows:
        assert 225 <= row.answer.tokens.mean_per_layer <= 240, row.label
        assert row.answer.flops.llm < full.answer.flops.llm
        assert row.same == (row.answer.answer == full.answer.answer)
    parts = [event.part for event in began if isinstance(event, Started)]
    assert parts.count("decode") == parts.count("encode") == 1


def test_a_row_is_the_answer_by_itself(clip: Path, model: VideoModel) -> None:
    found = compare(clip, QUESTION, presets=["fast"], methods=["random"], budgets=[50], model=model)
    labels = [row.label for row in found.rows]
    assert labels == ["full, 16 frames", "fast", "full, 32 frames", "random 50 in"]
    fast = tokenreduce.answer(clip, QUESTION, preset="fast", model=model)
    assert found.rows[1].answer.tokens == fast.tokens
    assert found.rows[1].answer.answer == fast.answer
    assert found.rows[3].answer.tokens.merged == 50
    assert found.rows[3].answer.method == "random"
    listed = json.loads(json.dumps(found.to_json()))
    assert [row["label"] for row in listed["rows"]] == labels
    assert listed["rows"][1]["tokens"]["merged"] == 84
    assert set(listed["shared_seconds"]) == {"load", "decode", "encode"}


def test_an_unreduced_model_that_does_not_fit_is_left_out(clip: Path, model: VideoModel) -> None:
    found = compare(clip, QUESTION, methods=["uniform"], budgets=[64], frames=220, model=model)
    (row,) = found.rows
    assert row.same is None
    assert "nothing to compare with at 220 frames" in found.warnings[0]


def test_the_text_counts_for_the_unreduced_model_before_the_video_is_decoded(
    clip: Path, model: VideoModel
) -> None:
    """672 + 7,450 tokens of 8,192 leave room for 70, and the frames' times alone take more."""
    told: list[Any] = []
    found = compare(
        clip,
        QUESTION,
        methods=["uniform"],
        budgets=[64],
        frames=16,
        max_new_tokens=7450,
        model=model,
        watch=told.append,
    )
    (row,) = found.rows
    assert (row.label, row.same, row.answer.tokens.merged) == ("uniform 64 in", None, 64)
    (warned,) = [event for event in told if isinstance(event, Warned)]
    assert "nothing to compare with at 16 frames: 672 visual + 1" in warned.message
    assert warned.message.endswith("give fewer --frames")
    assert told.index(warned) < told.index(Started("decode", 16))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, SettingError, "nothing to compare"),
        ({"methods": ["aimm"]}, SettingError, "did you mean aim"),
        ({"presets": ["slow"]}, SettingError, "no preset"),
        ({"methods": ["aim-prune"], "mean_budgets": [5]}, SettingError, "leaves at least"),
        ({"methods": ["random"], "budgets": [0]}, SettingError, "at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_video_is_read(
    model: VideoModel,
    options: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    # There is no such file, which would be told if it were looked at first.
    with pytest.raises(error, match=says):
        compare("nowhere.mp4", QUESTION, model=model, **options)


def test_a_file_there_is_not(model: VideoModel) -> None:
    with pytest.raises(InputError, match="no such file"):
        compare("nowhere.mp4", QUESTION, methods=["random"], model=model)


def test_a_setting_that_cannot_be_is_refused_and_the_others_go_on(
    clip: Path, model: VideoModel
) -> None:
    found = compare(
        clip,
        QUESTION,
        methods=["fewer-frames", "aim", "fastv", "random"],
        mean_budgets=[300, 40],
        frames=16,
        model=model,
    )
    assert [one.label for one in found.settings] == [
        "full, 7 frames",
        "fewer-frames mean 300",
        "full, 16 frames",
        "aim mean 300",
        "fastv mean 300",
        "random mean 300",
        "fewer-frames mean 40",
        "aim mean 40",
        "fastv mean 40",
        "random mean 40",
    ]
    fewer, fastv = found.refused
    assert "give 42 or more" in fewer.why
    assert fastv == Refused(
        "fastv mean 40",
        "a mean budget of 40: of 672 visual tokens fastv, which acts only inside the LLM, leaves "
        "at least 56 a layer: give that, or fewer --frames",
    )
    assert len(found.rows) == 8
    listed = json.loads(json.dumps(found.to_json()))["rows"]
    assert [row["label"] for row in listed] == [one.label for one in found.settings]
    assert listed[8] == {"label": "fastv mean 40", "refused": fastv.why}


def test_what_a_refusal_advises_can_be_done_here(clip: Path, model: VideoModel) -> None:
    found = compare(
        clip, QUESTION, methods=["fastv", "random"], budgets=[9], frames=16, model=model
    )
    (refused,) = found.refused
    assert refused.why.endswith("not 9: give --mean-budgets, or fewer --frames")


def test_where_nothing_can_be_run_the_first_refusal_is_raised(model: VideoModel) -> None:
    with pytest.raises(SettingError, match=r"^none of 2 settings can be, the first, fastv mean 9"):
        compare("no.mp4", QUESTION, methods=["fastv"], mean_budgets=[9, 8], model=model)
    with pytest.raises(SettingError, match=r"^1,100 frames: .* at most 1,024"):
        compare("no.mp4", QUESTION, methods=["aim"], frames=1100, model=model)


def test_what_is_given_twice_is_run_once(clip: Path, model: VideoModel) -> None:
    told: list[Any] = []
    found = compare(
        clip,
        QUESTION,
        presets=["fast", "fast"],
        methods=["aim", "aim"],
        mean_budgets=[90, 90],
        preset="fast",
        model=model,
        watch=told.append,
    )
    labels = ["full, 16 frames", "fast", "aim mean 90"]
    assert [one.label for one in found.settings] == labels
    settings = [event for event in told if isinstance(event, Setting)]
    assert settings == [Setting(label, i + 1, 3) for i, label in enumerate(labels)]


def test_a_mean_is_met_where_all_tokens_enter_before_it_is_used_up(
    clip: Path, model: VideoModel
) -> None:
    options: dict[str, Any] = {"frames": 4, "model": model}
    names = ["drift", "aim", "ficoco-vl", "framefusion", "fastv", "random"]
    found = compare(clip, QUESTION, methods=names, mean_budgets=[167, 125], **options)
    for row in found.rows[1:]:
        wanted = int(row.label.split()[-1])
        assert wanted - 1 <= row.answer.tokens.mean_per_layer <= wanted, row.label
    assert found.warnings == ()
    found = compare(clip, QUESTION, methods=["aim", "random"], mean_budgets=[900], **options)
    assert [row.answer.tokens.mean_per_layer for row in found.rows] == [168] * 3
    assert found.warnings == (
        "aim mean 900 and 1 more: a mean budget of 900 is not reached: 168 visual tokens enter the "
        "LLM, and its layers work on 168.0 on average",
    )


def test_ask_says_that_a_mean_is_not_reached(clip: Path, model: VideoModel) -> None:
    options: dict[str, Any] = {"preset": "aim", "frames": 4, "model": model}
    found = tokenreduce.answer(clip, QUESTION, mean_budget=170, **options)
    assert found.tokens.per_layer == (168,) * model.spec.text.layers
    assert ["170 is not reached" in message for message in found.warnings] == [True]
    assert tokenreduce.answer(clip, QUESTION, mean_budget=150, **options).warnings == ()


def test_each_row_pays_for_the_tower_as_if_it_were_alone(
    clip: Path, model: VideoModel, tmp_path: Path
) -> None:
    path = tmp_path / "inside.toml"
    path.write_text(
        'summary = "ToMe inside"\nkeep = "1/4"\nvideo = { frames = 1 }\n'
        'stage = [{ at = "encoder", method = { name = "tome" } }]\n'
    )
    preset: Preset = load_preset(str(path))
    found = compare(clip, QUESTION, presets=[preset], methods=["random"], frames=16, model=model)
    full, inside, random = found.rows
    shared = found.shared_seconds["encode"]
    assert full.encode_seconds == random.encode_seconds == pytest.approx(shared)
    assert inside.encode_seconds == inside.answer.seconds.encode > 0
    assert inside.answer.flops.vision < random.answer.flops.vision == full.answer.flops.vision
    for row, told in zip(found.rows, found.to_json()["rows"], strict=True):
        flops = row.answer.flops
        assert told["flops_alone"] == flops.vision + flops.llm + flops.overhead
        assert told["encode_seconds"] == row.encode_seconds
        assert told["seconds_alone"] == row.seconds


def test_the_seconds_of_a_row(clip: Path, model: VideoModel) -> None:
    answer = tokenreduce.answer(clip, QUESTION, model=model, preset="fast")
    spent = Seconds(1e8, 1e7, 1e6, 1, 20, 1e5, 300, 1e9, 1e4)
    row = Row("x", replace(answer, seconds=spent), None, None, 4000)
    assert row.seconds == 4321


@pytest.mark.parametrize("kind", ["device", "host"])
def test_the_peak_of_memory_is_each_row_s_own(
    clip: Path, model: VideoModel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As if each reduction took one byte that is never given back."""
    taken = [0]

    def merge(*arguments: Any) -> Any:
        taken[0] += 1
        return viewing.merge(*arguments)

    def reset(*_: Any) -> bool:
        taken[0] = 0
        return True

    monkeypatch.setattr(comparing, "merge", merge)
    monkeypatch.setattr(memory, f"reset_{kind}_peak", reset)
    monkeypatch.setattr(memory, f"{kind}_peak_bytes", lambda *_: taken[0])
    found = compare(clip, QUESTION, methods=["random"], budgets=[9, 8], model=model, frames=4)
    assert [row.peak_bytes for row in found.rows] == [1, 1, 1]


@pytest.mark.parametrize("too_large", ["full", "all"])
def test_what_the_memory_does_not_hold_is_left_out(
    clip: Path, model: VideoModel, monkeypatch: pytest.MonkeyPatch, too_large: str
) -> None:
    def reply(*arguments: Any) -> Any:
        if too_large == "all" or arguments[3].label == "none":
            raise torch.OutOfMemoryError
        return replying.reply(*arguments)

    monkeypatch.setattr(comparing, "reply", reply)
    options: dict[str, Any] = {"methods": ["random"], "budgets": [9], "model": model, "frames": 4}
    if too_large == "all":
        with pytest.raises(CapacityError, match=r"does not suffice"):
            compare(clip, QUESTION, **options)
        return
    found = compare(clip, QUESTION, **options)
    assert [(row.label, row.same) for row in found.rows] == [("random 9 in", None)]
    assert "nothing to compare with at 4 frames: the device's memory" in found.warnings[0]


def test_the_readme_s_examples_can_be_run(model: VideoModel) -> None:
    """On the model they name; on the demo model and on the default one where they name none."""
    seven_b = read_config(
        "lmms-lab/LLaVA-Video-7B-Qwen2",
        {
            "architectures": ["LlavaQwenForCausalLM"],
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 32768,
            "mm_vision_tower": "google/siglip-so400m-patch14-384",
            "mm_projector_type": "mlp2x_gelu",
            "mm_hidden_size": 1152,
            "mm_vision_select_layer": -2,
        },
        {},
    )
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    examples = [line for line in readme.splitlines() if line.startswith("tokenreduce compare ")]
    assert len(examples) == 2
    for line in examples:
        words = shlex.split(line)
        said = dict(zip(words[4::2], words[5::2], strict=True))
        means = [int(number) for number in said["--mean-budgets"].split(",")]
        methods = said["--methods"].split(",")
        for spec in (model.spec,) if "--model" in said else (model.spec, seven_b):
            every = cells.wanted(spec, (), methods, means, (), "balanced", None)
            for cell in [cells.settled(one, spec, Sampling()) for one in every]:
                assert cell.plan is not None, f"{line}: {cell.refused}"
                assert cells.fitting(cell.plan, spec, 1000) is cell.plan
