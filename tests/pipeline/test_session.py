"""Many questions of one session, and of later ones through the cache: who pays for what, and that
every answer is the one that a first question would get."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from tokenreduce.budget import Layout
from tokenreduce.cache.store import Cache
from tokenreduce.demo import clips
from tokenreduce.errors import InputError, SettingError
from tokenreduce.events import Event, Started
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.locate import config_folder, resolve
from tokenreduce.moments import Moment
from tokenreduce.opening import Wanted
from tokenreduce.plan import Overrides
from tokenreduce.session import Session

QUESTION, OTHER = "What colour is the star that appears briefly?", "How many stars appear?"
Open = Callable[..., Session]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    scene, _, _ = clips.draw(7, 0)
    clips.write(folder / "clip.mp4", scene, 4, size=96)
    return folder / "clip.mp4"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def parts() -> list[str]:
    return []


@pytest.fixture
def opening(clip: Path, cache: Cache, parts: list[str]) -> Open:
    """A session of the demo model, by name, so that the cache knows it."""

    def note(event: Event) -> None:
        if isinstance(event, Started):
            parts.append(event.part)

    def open_one(path: Path = clip, preset: str = "balanced", **given: Any) -> Session:
        known: dict[str, Any] = {"model": "demo", "cache": cache, "watch": note}
        for name in ("many", "model", "keep_sheet", "cache"):
            if name in given:
                known[name] = given.pop(name)
        wanted: dict[str, Any] = {"frames": 12, **given}
        over = Overrides(**{name: v for name, v in wanted.items() if name != "subtitles"})
        asked = Wanted(path, preset, over, Sampling(8), given.get("subtitles"))
        return Session(asked, **known)

    return open_one


def test_a_further_question_pays_for_itself_alone(opening: Open, parts: list[str]) -> None:
    with opening(many=True) as session:
        first = session.ask(QUESTION)
        parts.clear()
        second = session.ask(OTHER)
        assert parts == ["prefill", "answer"]
        assert session.viewed is not None
    with opening(many=False) as alone:
        afresh = alone.ask(OTHER)
    assert (first.frames.source, second.frames.source) == ("decoded", "session")
    assert second.answer == afresh.answer
    assert second.tokens == afresh.tokens
    assert second.flops.vision == 0 < first.flops.vision
    assert second.flops.llm < first.flops.llm  # the stem was there
    assert second.seconds.decode == second.seconds.encode == second.seconds.load == 0


def test_another_session_finds_it_in_the_cache(opening: Open, parts: list[str]) -> None:
    with opening() as session:
        first = session.ask(QUESTION)
    parts.clear()
    with opening() as session:
        second = session.ask(QUESTION)
        assert session._child.pid is None  # no decoder was started
    assert parts == ["digest", "load", "prefill", "answer"]
    assert second.frames.source == "cache"
    assert second.answer == first.answer
    assert (second.tokens, second.video) == (first.tokens, first.video)
    assert second.frames.seconds == first.frames.seconds
    assert second.frames.until == first.frames.until


def test_what_the_cache_gives_of_a_file_that_was_cut_off_is_told_to_be_so(
    opening: Open, clip: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "clip.mkv", tmp_path / "cut.mkv"
    with av.open(str(clip)) as source, av.open(str(whole), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    told = []
    for source_of_frames in ("decoded", "cache"):
        with opening(cut) as session:
            answer = session.ask(QUESTION)
        assert answer.frames.source == source_of_frames
        told.append(answer.warnings)
    assert "the file ends or is damaged at" in told[0][0]
    assert told[1] == told[0]


@pytest.mark.parametrize(
    "other",
    [
        {"frames": 11},
        {"start": "10%"},
        {"seek": "keyframe"},
        {"skip_duplicates": "auto"},
        {"budget": 100},
        {"preset": "aim"},
        {"newlines": "none"},
    ],
)
def test_other_settings_are_not_taken_for_these(opening: Open, other: dict[str, Any]) -> None:
    with opening(skip_duplicates="off") as session:
        session.ask(QUESTION)
    with opening(**{"skip_duplicates": "off", **other}) as session:
        assert session.ask(QUESTION).frames.source == "decoded"


def test_another_content_under_the_same_name_is_another_video(
    opening: Open, clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / "same.mp4"
    shutil.copy(clip, path)
    with opening(path) as session:
        session.ask(QUESTION)
    scene, _, _ = clips.draw(8, 1)
    clips.write(path, scene, 4, size=96)
    with opening(path) as session:
        assert session.ask(QUESTION).frames.source == "decoded"
    shutil.copy(clip, tmp_path / "renamed.mp4")
    with opening(tmp_path / "renamed.mp4") as session:
        renamed = session.ask(QUESTION)
    assert renamed.frames.source == "cache"
    assert renamed.video.path == str(tmp_path / "renamed.mp4")


def test_a_model_that_changed_is_another(opening: Open, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(config_folder(resolve("demo")), folder)
    with opening(model=str(folder)) as session:
        session.ask(QUESTION)
    with opening(model=str(folder)) as session:
        assert session.ask(QUESTION).frames.source == "cache"
    (weights,) = folder.glob("*.safetensors")
    weights.touch()
    with opening(model=str(folder)) as session:
        assert session.ask(QUESTION).frames.source == "decoded"


def test_a_damaged_entry_is_recomputed(opening: Open, cache: Cache) -> None:
    with opening() as session:
        first = session.ask(QUESTION)
    (entry,) = cache.entries()
    (path,) = cache.folder.rglob(entry.name)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with opening() as session:
        again = session.ask(QUESTION)
    assert (again.frames.source, again.answer) == ("decoded", first.answer)


def test_without_a_place_for_the_cache_there_is_one_warning(opening: Open, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opening(many=True, cache=Cache(tmp_path / "file" / "cache")) as session:
        first, second = session.ask(QUESTION), session.ask(OTHER)
    (told,) = first.warnings
    assert "going on without it" in told
    assert second.warnings == ()


AVAILABLE = Layout(12, 6, 6, "grid").available


@pytest.mark.parametrize(
    ("preset", "first", "then"),
    [
        ("balanced", AVAILABLE, 100),  # from all there are, merged over the clip
        ("aim", AVAILABLE, 75),
        ("aim", 12 * 21, 12 * 10),  # from half of each frame, which lies on AIM's way to less
        ("aim", 12 * 21, 7),
    ],
)
def test_fewer_are_derived_from_more_where_that_is_exact(
    opening: Open, cache: Cache, preset: str, first: int, then: int
) -> None:
    with opening(preset=preset, budget=first) as session:
        session.ask(QUESTION)
    with opening(preset=preset, budget=then) as session:
        found = session.ask(QUESTION)
        assert found.frames.source == "cache"
        assert session.viewed is not None
        kept = session.viewed.visual
    cache.clear()
    with opening(preset=preset, budget=then) as session:
        afresh = session.ask(QUESTION)
        assert afresh.frames.source == "decoded"
        assert session.viewed is not None
        visual = session.viewed.visual
    assert kept.count == then
    assert torch.equal(kept.x, visual.x)
    assert torch.equal(kept.place, visual.place)
    assert torch.equal(kept.size, visual.size)


@pytest.mark.parametrize(("preset", "first", "then"), [("aim", 200, 100), ("balanced", 200, 100)])
def test_where_it_is_not_exact_nothing_is_derived(
    opening: Open, preset: str, first: int, then: int
) -> None:
    with opening(preset=preset, budget=first) as session:
        session.ask(QUESTION)
    with opening(preset=preset, budget=then) as session:
        assert session.ask(QUESTION).frames.source == "decoded"


def test_another_preset_keeps_the_model_and_a_bad_one_changes_nothing(
    opening: Open, parts: list[str]
) -> None:
    with opening(many=True) as session:
        session.ask(QUESTION)
        with pytest.raises(SettingError, match="preset"):
            session.change(preset="no-such")
        assert session.ask(OTHER).preset == "balanced"
        session.change(preset="aim")
        parts.clear()
        changed = session.ask(QUESTION)
        assert changed.preset == "aim"
        assert "load" not in parts
        assert "decode" in parts
        parts.clear()
        session.change(preset="balanced")
        assert session.ask(QUESTION).frames.source == "cache"
        assert "decode" not in parts


def test_frames_by_the_second_in_a_range(opening: Open) -> None:
    with opening(frames=None, fps=2.0, start=1, end="50%", skip_duplicates="off") as session:
        found = session.ask(QUESTION)
        assert session.viewed is not None
    seconds = found.frames.seconds
    assert seconds[0] == 1.0
    assert seconds[-1] <= found.video.seconds / 2
    assert {round(b - a, 6) for a, b in pairwise(seconds)} == {0.5}
    assert found.frames.requested == len(seconds)
    with opening(frames=None, fps=2.0, max_frames=5) as session:
        few = session.ask(QUESTION)
    assert len(few.frames.seconds) + few.frames.repeats == 5
    assert few.frames.seconds[-1] > seconds[-1]


def test_a_range_is_known_by_its_times_however_they_are_written(opening: Open) -> None:
    for start, source in (
        (Moment(0.5), "decoded"),
        ("0:00.5", "cache"),
        (0.5, "cache"),
        (Moment(0.5000001), "decoded"),  # "0.5 s", too
        ("50%", "decoded"),
    ):
        with opening(start=start) as session:
            assert session.ask(QUESTION).frames.source == source


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"start": "9:00:00"}, "nothing starts at"),
        ({"start": 5, "end": 4}, "not before"),
        ({"fps": 0.0, "frames": None}, "frames a second"),
        ({"fps": 1.0}, "give one of them"),
        ({"max_frames": 4, "frames": None}, "give fps"),
        ({"skip_duplicates": "perhaps"}, "auto, off"),
        ({"skip_duplicates": 300}, "auto, off"),
        ({"subtitles": "embedded"}, "no text track"),
        ({"subtitles": "/no/such.srt"}, "no such file"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(
    opening: Open, parts: list[str], given: dict[str, Any], told: str
) -> None:
    with opening(**given) as session, pytest.raises((InputError, SettingError), match=told):
        session.ask(QUESTION)
    assert "load" not in parts


def test_a_missing_file_is_told_before_anything_of_a_model_is_fetched() -> None:
    with (
        Session(Wanted("/no/such.mp4"), model="nobody/nothing") as session,
        pytest.raises(InputError, match="no such file"),
    ):
        session.ask(QUESTION)


def test_a_subtitle_file_is_refused_before_the_video_is_read(
    opening: Open, parts: list[str]
) -> None:
    with opening(subtitles="/no/such.srt") as session, pytest.raises(InputError, match="no such"):
        session.ask(QUESTION)
    assert parts == []


def test_subtitles_are_told_and_counted(opening: Open, tmp_path: Path) -> None:
    path = tmp_path / "said.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:02,000\nthe star is red\n")
    with opening(subtitles=str(path)) as session:
        told = session.ask(QUESTION)
    with opening() as session:
        plain = session.ask(QUESTION)
    assert plain.tokens.text_parts.subtitles == 0 < told.tokens.text_parts.subtitles
    assert told.tokens.text > plain.tokens.text + 5
    assert told.frames.source == "decoded"
    assert plain.frames.source == "cache"  # what is said changes nothing of what is seen


def test_the_sheet_has_the_frames_that_were_looked_at(opening: Open, tmp_path: Path) -> None:
    with opening(keep_sheet=True) as session:
        session.ask(QUESTION)
        assert session.sheet is not None
        session.sheet.save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_a_loaded_model_has_no_name_for_the_cache(
    opening: Open, cache: Cache, demo: VideoModel
) -> None:
    with opening(model=demo) as session:
        session.ask(QUESTION)
    assert cache.entries() == ()
