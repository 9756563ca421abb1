"""Settings side by side: shared decoding and encoding, equal means, and the answers of `answer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tokenreduce
from tokenreduce import viewing
from tokenreduce.compare import compare
from tokenreduce.demo import clips
from tokenreduce.errors import InputError, SettingError
from tokenreduce.events import Started
from tokenreduce.models.base import VideoModel
from tokenreduce.models.load import load
from tokenreduce.recipes import recipe_names

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
    assert (full.label, full.same, full.answer.tokens.merged) == ("full, 16 frames", True, 672)
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
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    monkeypatch.setattr(viewing, "encode", None)
    with pytest.raises(error, match=says):
        compare("nowhere.mp4", QUESTION, model=model, **options)


def test_a_file_there_is_not(model: VideoModel) -> None:
    with pytest.raises(InputError, match="no such file"):
        compare("nowhere.mp4", QUESTION, methods=["random"], model=model)
