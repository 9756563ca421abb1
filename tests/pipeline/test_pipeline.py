"""The whole road on a generated clip with the embedded demo model: budgets, events, accounts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tokenreduce
from tokenreduce.budget import Layout
from tokenreduce.clock import Clock
from tokenreduce.demo import clips
from tokenreduce.errors import CapacityError, InputError, SettingError
from tokenreduce.events import Advanced, Event, Finished, Started, Text
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.load import load
from tokenreduce.pipeline import reply
from tokenreduce.plan import Overrides, settle
from tokenreduce.preset import load_preset
from tokenreduce.result import Answer
from tokenreduce.video.decoder import Decoder
from tokenreduce.viewing import view

QUESTION = "What colour is the star that appears briefly?"


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load("demo", device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    scene, _, _ = clips.draw(7, 0)
    clips.write(folder / "clip.mp4", scene, 2, size=96)
    return folder / "clip.mp4"


def ask(clip: Path, model: VideoModel, **options: object) -> Answer:
    wanted = {"frames": 8, "model": model, **options}
    return tokenreduce.answer(clip, QUESTION, **wanted)  # type: ignore[arg-type]  # keywords of mixed types


@pytest.mark.parametrize("budget", [1, 9, 41, 100, 335, 5000])
def test_exactly_the_budget_enters_the_llm(clip: Path, model: VideoModel, budget: int) -> None:
    result = ask(clip, model, budget=budget, skip_duplicates="off")
    available = Layout(8, 6, 6, "grid").available
    assert result.tokens.raw == available == 336
    assert result.tokens.merged == min(budget, available)
    assert result.tokens.per_layer[0] == result.tokens.merged
    assert list(result.tokens.per_layer) == sorted(result.tokens.per_layer, reverse=True)
    assert len(result.tokens.per_layer) == model.spec.text.layers


@pytest.mark.parametrize(("keep", "merged"), [(1.0, 336), (0.5, 168), (0.25, 84), (0.001, 1)])
def test_keep_is_a_share_of_the_raw_count(
    clip: Path, model: VideoModel, keep: float, merged: int
) -> None:
    assert ask(clip, model, keep=keep).tokens.merged == merged


def test_the_full_budget_is_the_plain_model(clip: Path, model: VideoModel) -> None:
    """Preset none: nothing merged or pruned, every layer sees every token, nothing is saved."""
    result = ask(clip, model, preset="none")
    assert set(result.tokens.per_layer) == {336}
    assert result.flops.ratio_llm == pytest.approx(1.0)
    assert result.memory_bytes.kv_cache == result.memory_bytes.kv_cache_unreduced


def test_reduction_is_accounted_for(clip: Path, model: VideoModel) -> None:
    result = ask(clip, model, preset="fast")
    assert result.flops.ratio_llm > result.flops.ratio_total > 1
    assert result.memory_bytes.kv_cache < result.memory_bytes.kv_cache_unreduced
    text = model.spec.text
    per_token = 2 * text.kv_width * torch.float32.itemsize
    held = sum(result.tokens.per_layer) + text.layers * result.tokens.text
    assert result.memory_bytes.kv_cache == held * per_token
    assert result.seconds.total >= result.seconds.encode > 0
    assert result.seconds.first_token > result.seconds.prefill > 0


def test_the_json_object_is_the_result(clip: Path, model: VideoModel) -> None:
    result = ask(clip, model)
    assert json.loads(json.dumps(result.to_json())) == result.to_json()
    assert result.to_json()["tokens"]["per_layer"] == list(result.tokens.per_layer)


def test_the_path_is_told_as_it_was_given(
    clip: Path, model: VideoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip.parent)
    for given in (clip, Path(clip.name), f"./{clip.name}"):
        result = tokenreduce.answer(given, QUESTION, model=model, frames=2)
        assert result.video.path == str(given)


def test_events_tell_the_road_in_order(clip: Path, model: VideoModel) -> None:
    told: list[Event] = []
    result = ask(clip, model, watch=told.append)
    begun = [event.part for event in told if isinstance(event, Started)]
    assert begun == ["probe", "decode", "encode", "reduce", "prefill", "answer"]
    ended = {event.part for event in told if isinstance(event, Finished)}
    assert ended == set(begun)
    advanced = [event.done for event in told if isinstance(event, Advanced)]
    assert max(advanced) == 8
    assert "".join(e.piece for e in told if isinstance(e, Text)).strip() == result.answer.strip()


def test_asking_again_gives_the_same(clip: Path, model: VideoModel) -> None:
    one, two = (ask(clip, model, temperature=1.0, seed=3, max_new_tokens=6) for _ in "ab")
    assert one.answer == two.answer
    drawn = {
        ask(clip, model, temperature=5.0, seed=seed, max_new_tokens=6).answer for seed in range(6)
    }
    assert len(drawn) > 1


def test_fewer_frames_than_asked_for_is_told(clip: Path, model: VideoModel) -> None:
    result = ask(clip, model, frames=100_000, budget=64)
    assert result.frames.decoded < result.frames.requested == 100_000
    assert any("frames decoded of 100000" in warning for warning in result.warnings)
    assert result.tokens.merged == 64


def test_the_toy_world_is_said_to_be_one(clip: Path, model: VideoModel) -> None:
    result = tokenreduce.answer(clip, "Who won the election?", model=model, frames=4)
    (warning,) = result.warnings
    assert "toy world" in warning
    assert "election" in warning
    assert ask(clip, model).warnings == ()


def test_presets_are_relative_to_the_model(clip: Path, model: VideoModel) -> None:
    native = model.spec.native_frames
    for name, multiple in (("fast", 1), ("balanced", 2), ("accurate", 4)):
        result = tokenreduce.answer(clip, QUESTION, model=model, preset=load_preset(name))
        assert result.frames.requested == multiple * native
        assert result.preset == name


def refused() -> Iterator[object]:
    yield pytest.param({"budget": 0}, SettingError, "budget of 0", id="no budget")
    yield pytest.param({"budget": 5, "keep": 0.5}, SettingError, "give one of them", id="both")
    yield pytest.param(
        {"budget": 5, "mean_budget": 5}, SettingError, "give one of them", id="both budgets"
    )
    yield pytest.param({"mean_budget": 0}, SettingError, "budget of 0", id="no mean budget")
    yield pytest.param({"method": "aimm"}, SettingError, "did you mean aim", id="method")
    yield pytest.param(
        {"method": "aim-prune", "budget": 5}, SettingError, "give --mean-budget", id="llm only"
    )
    yield pytest.param({"keep": 1.5}, SettingError, "keep 1.5", id="keep")
    yield pytest.param({"keep": float("nan")}, SettingError, "keep nan", id="nan")
    yield pytest.param({"newlines": "all"}, SettingError, "it can be share", id="newlines")
    yield pytest.param({"frames": 0}, SettingError, "0 frames", id="frames")
    yield pytest.param({"preset": "none", "budget": 5}, SettingError, "reduces nothing", id="none")
    yield pytest.param({"preset": "nosuch"}, SettingError, "nosuch", id="preset")
    yield pytest.param(
        {"frames": 8, "max_new_tokens": 8050},
        SettingError,
        "largest budget that fits",
        id="context",
    )
    yield pytest.param(
        {"preset": "none", "frames": 8, "max_new_tokens": 7800},
        SettingError,
        r"can hold: --frames \d fits, or choose another preset",
        id="context, whole",
    )


@pytest.mark.parametrize(("options", "error", "says"), [*refused()])
def test_impossible_settings_are_refused(
    clip: Path, model: VideoModel, options: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        ask(clip, model, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("question", ["", "   \n", "why? " * 20_000])
def test_questions_that_are_none(clip: Path, model: VideoModel, question: str) -> None:
    with pytest.raises(InputError, match="question"):
        tokenreduce.answer(clip, question, model=model)


class Exhausted:
    """A model whose device is full once it has to work."""

    def __init__(self, model: VideoModel, at: str) -> None:
        self._model, self._at = model, at

    def __getattr__(self, name: str) -> object:
        if name != self._at:
            return getattr(self._model, name)

        def full(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        return full


@pytest.mark.parametrize("at", ["look", "generate"])
def test_a_full_device_is_no_bug(clip: Path, model: VideoModel, at: str) -> None:
    with pytest.raises(CapacityError, match="set --budget 42 or --frames 4"):
        ask(clip, Exhausted(model, at))  # type: ignore[arg-type]  # a stand-in that runs out


def test_more_frames_than_the_header_says_are_counted(clip: Path, model: VideoModel) -> None:
    """The prompt that was really made is held against the context window once more."""
    plan = settle(
        load_preset("none"), model.spec, Overrides(frames=8), Sampling(max_new_tokens=7800)
    )
    with Decoder() as decoder:
        viewed = view(decoder, model, decoder.probe(clip), plan, Clock())
    with pytest.raises(SettingError, match="exceed the 8192"):
        reply(model, viewed, QUESTION, plan, Clock())


def test_settings_are_refused_before_the_file_is_opened(model: VideoModel) -> None:
    with pytest.raises(SettingError, match="budget"):
        tokenreduce.answer("/no/such/file.mp4", QUESTION, model=model, budget=0)
    with pytest.raises(InputError, match="no/such"):
        tokenreduce.answer("/no/such/file.mp4", QUESTION, model=model)


@pytest.mark.parametrize(("allowed", "frames"), [(42, 1), (83, 1), (84, 2), (336, 8), (999, 8)])
def test_fewer_frames_are_as_many_as_fit(model: VideoModel, allowed: int, frames: int) -> None:
    for over in (Overrides(budget=allowed), Overrides(mean_budget=allowed)):
        wanted = replace(over, method="fewer-frames", frames=8)
        plan = settle(load_preset("fast"), model.spec, wanted, Sampling())
        assert (plan.frames, plan.budget_for(plan.raw)) == (frames, 42 * frames)


def test_where_not_even_one_frame_fits_the_least_is_named(clip: Path, model: VideoModel) -> None:
    assert ask(clip, model, method="fewer-frames", budget=84).frames.decoded == 2
    for options in ({"budget": 41}, {"mean_budget": 41}, {"keep": 0.1}, {"budget": 1}):
        with pytest.raises(SettingError, match=r"one is 42 tokens, .* give 42 or more"):
            ask(clip, model, method="fewer-frames", **options)
