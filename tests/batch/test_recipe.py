"""Which settings make another answer, and how a difference is told."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.batch.output import Output
from tokenreduce.batch.recipe import Recipe, differences
from tokenreduce.errors import ModelError, SettingError
from tokenreduce.models.base import Sampling
from tokenreduce.models.locate import config_folder, resolve
from tokenreduce.moments import parse
from tokenreduce.occupant import Placing
from tokenreduce.plan import Overrides


def recipe(**changed: Any) -> Recipe:
    known: dict[str, Any] = {
        "model": "demo",
        "preset": "balanced",
        "over": Overrides(),
        "sampling": Sampling(),
        "placing": Placing(),
        "subtitles": None,
        "cache_folder": None,
    }
    return Recipe.of(**{**known, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"preset": "fast"},
        {"over": Overrides(budget=100)},
        {"over": Overrides(keep=0.25)},
        {"over": Overrides(start=parse("25%"))},
        {"over": Overrides(skip_duplicates="auto")},
        {"sampling": Sampling(seed=1)},
        {"sampling": Sampling(max_new_tokens=8)},
        {"placing": Placing(dtype="bfloat16")},
        {"subtitles": "embedded"},
    ],
)
def test_what_changes_an_answer_is_another_digest(changed: dict[str, Any]) -> None:
    plain, other = recipe(), recipe(**changed)
    assert other.digest != plain.digest
    assert differences(plain.facts, other.facts) != ""
    assert recipe(**changed).digest == other.digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"placing": Placing(device="cpu")}, {"placing": Placing(device="auto")}),
        ({"cache_folder": "/a"}, {"cache_folder": None}),
        ({"over": Overrides(keep=0.25)}, {"over": Overrides(keep=Fraction(1, 4))}),
        ({"over": Overrides(start=parse("10:00"))}, {"over": Overrides(start=parse("600"))}),
        ({"sampling": Sampling(temperature=1)}, {"sampling": Sampling(temperature=1.0)}),
    ],
)
def test_what_changes_none_is_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert recipe(**one).digest == recipe(**other).digest


def test_a_preset_file_that_changes_later_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    shipped = Path(__file__).parents[2] / "presets" / "balanced.toml"
    path.write_bytes(shipped.read_bytes())
    made = recipe(preset=str(path))
    before = made.digest
    path.write_text("rubbish")
    made.check()
    assert made.digest == before
    assert pickle.loads(pickle.dumps(made)) == made


def test_other_weights_under_the_same_name_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(config_folder(resolve("demo")), folder)
    before = recipe(model=str(folder))
    assert before.facts["weights"] == recipe().facts["weights"]  # wherever it lies
    (weights,) = folder.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert recipe(model=str(folder)).digest != before.digest


def test_what_no_file_could_be_asked_with_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="one file for all videos"):
        recipe(subtitles="a.srt")
    with pytest.raises(SettingError):
        recipe(preset="nosuch")
    with pytest.raises(SettingError):
        recipe(model="nosuch").check()
    with pytest.raises(SettingError):
        recipe(over=Overrides(method="nosuch")).check()
    with pytest.raises(ModelError):
        recipe(model=str(tmp_path)).check()


def test_an_output_without_a_name_is_refused_and_nothing_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="the name is empty; give a file"):
        Output.open("", recipe(), {})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_start_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out[1].jsonl"
    left = [tmp_path / f"out[1].jsonl.ledger.0123abcd.new{end}" for end in ("", "-wal", "-shm")]
    others = [tmp_path / name for name in ("out[1].jsonl.ledger.mine.new", "out1.jsonl.ledger.new")]
    for one in (*left, *others):
        one.touch()
    with Output.open(str(path), recipe(), {}) as output:
        output.projection.rewrite()
        output.finish()
    assert not any(one.exists() for one in left)
    assert all(one.exists() for one in others)


def test_other_settings_on_an_output_are_refused_with_the_choice(tmp_path: Path) -> None:
    path = str(tmp_path / "out.jsonl")
    plain, other = recipe(), recipe(preset="fast", sampling=Sampling(seed=1))
    with Output.open(path, plain, {}) as output:
        assert output.moved is None
        output.projection.rewrite()
        output.finish()
    with pytest.raises(
        SettingError, match=r"preset fast \(was balanced\).*seed 1 \(was 0\)"
    ) as told:
        Output.open(path, other, {})
    assert "--mix" in str(told.value)
    assert "--new" in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(SettingError, match="one of them"):
        Output.open(path, other, {}, new=True, mix=True)
    with Output.open(path, other, {}, mix=True) as output:
        assert set(output.ledger.settings()) == {plain.digest, other.digest}
    with Output.open(path, plain, {}) as output:  # both are known now
        assert output.moved is None
    with Output.open(path, replace(other, model="demo"), {}, new=True) as output:
        assert output.moved == f"{path}.1"
        assert set(output.ledger.settings()) == {other.digest}
