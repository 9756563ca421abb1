"""A frame that repeats another is not encoded; its features stand where its own would have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenreduce.clock import Clock
from tokenreduce.demo import clips
from tokenreduce.looking import look
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.opening import Wanted
from tokenreduce.plan import Overrides, Plan, of_video, settle
from tokenreduce.preset import load_preset
from tokenreduce.session import Session
from tokenreduce.subject import Footage
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import End, Frame, Probe, Repeat
from tokenreduce.viewing import merge, see
from tokenreduce.watching import CHUNK, watch

QUESTION = "How many stars appear?"
SHOWN = "FRRFFRRRR" + "F" * 20 + "R" * 40 + "FR"
"""A frame, or a repeat of the last one, at each second."""


class Scripted:
    """A decoder that gives frames of one grey each, and repeats, as a text says."""

    def __init__(self, script: str, *, whole: bool = False) -> None:
        self.script, self.whole = script, whole

    def stream(self, path: Any, request: Any, probe: Any = None) -> Any:
        grey = -1
        for second, what in enumerate(self.script):
            grey += what == "F"
            if what == "F" or self.whole:
                pixels = np.full((request.size, request.size, 3), 7 * grey % 256, np.uint8)
                yield Frame(float(second), pixels)
            else:
                yield Repeat(float(second))
        yield End(len(self.script), True, len(self.script) - 1.0)


def probe() -> Probe:
    with Decoder() as decoder:
        return decoder.probe(_CLIP[0])


_CLIP: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    clips.write(path, clips.draw(7, 0)[0], 4, size=96)
    _CLIP[:] = [path]
    return path


@pytest.fixture
def planned(demo: VideoModel) -> Callable[..., Plan]:
    found = probe()

    def plan(skip: str, *, frames: int = len(SHOWN), preset: str = "balanced", **over: Any) -> Plan:
        given = Overrides(frames=frames, skip_duplicates=skip, **over)
        settled = settle(load_preset(preset), demo.spec, given, Sampling())
        return of_video(settled, demo.spec, 1000.0, 25.0, found.path)

    return plan


@pytest.mark.parametrize("preset", ["balanced", "aim", "fast"])
def test_the_tokens_are_those_of_encoding_every_frame(
    demo: VideoModel, planned: Callable[..., Plan], preset: str
) -> None:
    """Where repeats show exactly what they repeat: features of the same pixels in other batches
    differ by float noise, places do not."""
    subject, made = Footage(probe()), {}
    for skip, whole in (("auto", False), ("off", True)):
        decoder: Any = Scripted(SHOWN, whole=whole)
        made[skip] = see(decoder, demo, subject, planned(skip, preset=preset), Clock())
    filled, every = made["auto"], made["off"]
    assert filled.raw == every.raw == demo.spec.layout(len(SHOWN)).available
    assert torch.equal(filled.visual.place, every.visual.place)
    assert torch.equal(filled.visual.size, every.visual.size)
    torch.testing.assert_close(filled.visual.x, every.visual.x, atol=2e-4, rtol=1e-4)
    assert (filled.squares, every.squares) == (SHOWN.count("F"), len(SHOWN))
    assert filled.prunes == every.prunes


def test_settings_compared_on_one_decode_fill_in_too(
    demo: VideoModel, planned: Callable[..., Plan]
) -> None:
    plans = (planned("auto"), planned("auto", budget=20))
    assert [plan.fills_in for plan in plans] == [True, False]
    decoder: Any = Scripted(SHOWN)
    subject = Footage(probe())
    encoded = look(decoder, demo, subject, plans, Clock())
    for plan in plans:
        alone = see(decoder, demo, subject, plan, Clock())
        both = merge(demo, encoded, plan, Clock())
        assert both.raw == alone.raw
        assert torch.equal(both.visual.place, alone.visual.place)
        torch.testing.assert_close(both.visual.x, alone.visual.x)
        assert both.squares == alone.squares == SHOWN.count("F")


def test_where_there_are_more_frames_than_tokens_repeats_are_left_out(
    demo: VideoModel, planned: Callable[..., Plan]
) -> None:
    decoder: Any = Scripted(SHOWN)
    plan = planned("auto", budget=len(SHOWN) - 1)
    assert not plan.fills_in
    seen = see(decoder, demo, Footage(probe()), plan, Clock())
    assert seen.raw == demo.spec.layout(SHOWN.count("F")).available
    assert planned("auto", budget=len(SHOWN)).fills_in
    assert not planned("off").fills_in


def test_what_each_frame_stands_for(planned: Callable[..., Plan]) -> None:
    given: list[tuple[int, tuple[int, ...]]] = []

    def take(pixels: torch.Tensor, stands: Sequence[int]) -> None:
        given.append((pixels.shape[0], tuple(stands)))

    decoder: Any = Scripted(SHOWN)
    plan = planned("auto")
    watched = watch(decoder, Footage(probe()), plan, 8, Clock(), take)
    assert all(frames == len(stands) <= CHUNK for frames, stands in given)
    assert sum((stands for _, stands in given), ()) == watched.stands
    assert sum(watched.stands) == watched.sampled == len(SHOWN)
    assert watched.every == tuple(float(second) for second in range(len(SHOWN)))
    assert watched.seconds == tuple(float(s) for s, what in enumerate(SHOWN) if what == "F")
    assert watched.until[:3] == (2.0, 3.0, 8.0)
    assert watched.until[-1] == len(SHOWN) - 1.0
    assert watched.repeats == SHOWN.count("R")
    assert watched.shown(plan) == watched.every


def test_an_answer_says_what_was_encoded_and_tells_every_time(
    demo: VideoModel, tmp_path: Path
) -> None:
    path = tmp_path / "still.mp4"
    scene, _, _ = clips.draw(7, 0)
    clips.write(path, scene, 4, size=96)
    said = {}
    for skip in ("off", "auto"):
        over = Overrides(frames=24, skip_duplicates=skip)
        with Session(Wanted(path, "balanced", over, Sampling(8)), model=demo) as session:
            said[skip] = session.ask(QUESTION)
    off, auto = said["off"], said["auto"]
    assert auto.frames.decoded < off.frames.decoded == 24
    assert auto.frames.decoded + auto.frames.repeats == 24
    assert auto.tokens == off.tokens  # also of text: the same times are told
    assert auto.answer == off.answer
    assert auto.flops.vision == pytest.approx(off.flops.vision * auto.frames.decoded / 24)


def test_no_more_times_are_told_than_the_model_can_read(demo: VideoModel, clip: Path) -> None:
    told = {}
    for frames in (8, 32, 48, 64):
        wanted = Wanted(clip, "balanced", Overrides(frames=frames), Sampling(2))
        with Session(wanted, model=demo) as session:
            told[frames] = session.ask(QUESTION).tokens.text_parts.time
    assert told[8] < told[32] < told[48]  # the sentence says that some are left out
    assert told[64] <= told[48] + 10
    assert demo.spec.native_frames == 16
