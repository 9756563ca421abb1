"""What counts as a repeat: blind to grain and codec noise, never to a thing that appears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenreduce.demo import clips
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.repeats import AUTO, SIDE, Repeats, change
from tokenreduce.video.types import End, Frame, Repeat, Request

Thumbnail = NDArray[np.uint8]


def flat(level: int, side: int = SIDE) -> Thumbnail:
    return np.full((side, side, 3), level, np.uint8)


def slow_blocks(step: NDArray[Any]) -> float:
    """The largest mean over 3 x 3 cells, cell by cell."""
    height, width, channels = step.shape
    return max(
        abs(float(step[y : y + 3, x : x + 3, c].mean()))
        for y in range(max(height - 2, 1))
        for x in range(max(width - 2, 1))
        for c in range(channels)
    )


@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**32),
    spread=st.integers(1, 255),
)
def test_change_is_the_larger_of_block_and_cell(
    shape: tuple[int, int], seed: int, spread: int
) -> None:
    random = np.random.default_rng(seed)
    before, after = random.integers(0, spread + 1, (2, *shape, 3)).astype(np.uint8)
    step = after.astype(float) - before
    cells = np.sort(np.abs(step).max(-1).ravel())
    lone = cells[-1] - 2.5 * cells[cells.size * 99 // 100]
    assert change(before, after) == pytest.approx(max(slow_blocks(step), lone))


def test_a_repeat_is_one_of_the_last_sent_frame() -> None:
    seen = Repeats(10)
    levels = [100, 104, 108, 112, 108, 104, 101, 99]
    # 100 is sent; 112 is the first that is 10 from it, 101 the first that is 10 from 112.
    assert [seen.repeats(flat(level)) for level in levels] == [
        False, True, True, False, True, True, False, True,
    ]  # fmt: skip


def test_other_sizes_are_no_repeats() -> None:
    seen = Repeats(255)
    assert not seen.repeats(flat(9))
    assert not seen.repeats(flat(9, SIDE // 2))
    assert seen.repeats(flat(9, SIDE // 2))


def test_zero_leaves_nothing_out() -> None:
    seen = Repeats(0)
    assert not any(seen.repeats(flat(9)) for _ in range(3))


@given(
    y=st.integers(0, SIDE - 1),
    x=st.integers(0, SIDE - 1),
    channel=st.integers(0, 2),
    grain=st.floats(0, 1.5),
    seed=st.integers(0, 2**32),
)
def test_one_cell_is_enough_and_grain_is_not(
    y: int, x: int, channel: int, grain: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    noise = np.clip(random.normal(0, grain, (2, SIDE, SIDE, 3)), -3 * grain, 3 * grain)
    before, after = (np.rint(100 + part).astype(np.uint8) for part in noise)
    assert change(before, after) < AUTO
    after[y, x, channel] += 40
    assert change(before, after) >= AUTO


@pytest.mark.parametrize("crf", [18, 32])
def test_a_static_scene_is_sent_once_and_a_small_dot_is_seen(
    crf: int, tmp_path: Path, decoder: Decoder
) -> None:
    """720p with sensor noise; the dot is 3 x 5 pixels of what a tower of 384 sees."""
    random = np.random.default_rng(0)
    scene = random.integers(50, 200, (18, 32, 3)).repeat(40, 0).repeat(40, 1)
    path = tmp_path / "still.mp4"
    with av.open(str(path), "w") as file:
        options = {"crf": str(crf), "preset": "veryfast"}
        stream: Any = file.add_stream("libx264", rate=1, options=options)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.gop_size = 3
        for index in range(12):
            picture = scene + random.normal(0, 3, (720, 1280, 1))
            if index >= 8:
                picture[300:310, 700:710] = np.where(scene[300, 700] < 128, 230, 20)
            pixels = np.clip(picture, 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    request = Request(12, 64, skip_duplicates=AUTO)
    sent = [frame.seconds for frame in decoder.frames(path, request)]
    assert sent == [0, 8]


@pytest.mark.parametrize(("index", "crf"), [(6, 18), (6, 32), (2, 23)])
def test_nothing_that_appears_in_the_demo_world_is_left_out(
    index: int, crf: int, tmp_path: Path, decoder: Decoder
) -> None:
    scene, _, _ = clips.draw(77, index)
    clips.write(path := tmp_path / "world.mp4", scene, 10, crf=crf)
    stars = [star.visible for star in scene.stars]
    visible_at = [*(thing.visible for thing in scene.things), *stars]
    assert stars
    shown: list[bool] = []
    repeats = 0
    request = Request(1000, 8, fps=2, skip_duplicates=AUTO)
    for item in decoder.stream(path, request):
        if isinstance(item, End):
            break
        visible = [at(item.seconds) for at in visible_at]
        shown = visible if isinstance(item, Frame) else shown
        assert visible == shown, f"what is left out at {item.seconds} s shows something new"
        repeats += isinstance(item, Repeat)
    assert repeats >= (14 if index == 6 else 8), "static, and moving most of the time"
