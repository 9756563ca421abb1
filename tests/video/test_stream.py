"""Frames by the second, frames left out because nothing changed, and how a stream says it ended."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenreduce.errors import InputError, SettingError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.times import Span, choose, moments, wanted
from tokenreduce.video.types import End, Frame, Repeat, Request

SIZE = 48
DECODERS = ["pyav", pytest.param("decord", marks=pytest.mark.skipif(
    find_spec("decord") is None, reason="decord is not installed"))]  # fmt: skip

Pictures = Sequence[NDArray[np.uint8]]


def seconds(items: Sequence[Frame | Repeat]) -> list[float]:
    return [item.seconds for item in items]


def split(decoder: Decoder, path: Path, request: Request) -> tuple[list[Frame | Repeat], End]:
    *items, end = decoder.stream(path, request)
    assert isinstance(end, End)
    assert not any(isinstance(item, End) for item in items)
    return [item for item in items if not isinstance(item, End)], end


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """H.264 of the given RGB pictures, one a second unless said otherwise."""

    def write(pictures: Pictures, *, rate: int = 1, crf: int = 23, gop: int = 250) -> Path:
        path = tmp_path / f"film-{len(list(tmp_path.iterdir()))}.mp4"
        options = {"crf": str(crf), "preset": "veryfast"}
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.gop_size = gop
            for picture in pictures:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode(None))
        return path

    return write


# Which moments


@given(
    gaps=st.lists(st.integers(1, 3000), min_size=1, max_size=60),
    shown=st.integers(0, 3000),
    fps=st.sampled_from([0.1, 0.5, 1.0, 3.0, 24.0, 29.97]),
    start=st.floats(0, 5),
    length=st.none() | st.floats(0.01, 60),
)
def test_frames_by_the_second_are_those_on_display(
    gaps: list[int], shown: int, fps: float, start: float, length: float | None
) -> None:
    times = [77, *(77 + int(t) for t in np.cumsum(gaps))]
    end = (times[-1] - 77 + shown) / 1000
    start = min(start, end / 2)
    stop = None if length is None else start + length
    span = Span(Fraction(1, 1000), times[0], times[-1], None, shown)
    request = Request(10**5, 8, fps=fps, start=start, stop=stop)
    asked = moments(span, request)
    assert len(asked) == wanted(span, request)
    # In exact numbers, the definition: i / fps after the start, up to the stop, before the end.
    exact, step = Fraction(start), 1 / Fraction(fps)
    last = exact + (len(asked) - 1) * step
    grace = Fraction(1, 10**5)
    assert last < Fraction(end) + grace
    assert last <= (Fraction(stop) if stop is not None else last) + grace
    following = last + step
    # The end may be half a tick off, as every time in a file.
    over = Fraction(end) - Fraction(1, 2000)
    assert following >= min(over, Fraction(stop) if stop is not None else over) - grace
    for index, target in enumerate(asked):
        due = min(int((exact + index * step) * 1000 + grace) + 77, times[-1])
        assert abs(target - due) <= 1
        (place,) = choose(times, [target])
        assert times[place] <= target


@pytest.mark.parametrize("tick", [Fraction(1, 1000), Fraction(1, 15360), Fraction(1, 90000)])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30), Fraction(30000, 1001)])
def test_frames_by_the_second_on_a_constant_rate(rate: Fraction, tick: Fraction) -> None:
    times = [1234 + round(i / rate / tick) for i in range(300)]
    period = Fraction(times[-1] - times[0], 299)
    end = times[0] + 300 / rate / tick
    span = Span(tick, times[0], times[-1], period, round(1 / rate / tick))
    for fps in (0.5, 1.0, 2.0, 5.0):
        chosen = choose(times, moments(span, Request(1000, 8, fps=fps)))
        due = [i / Fraction(fps) / tick + Fraction(1, 2) + times[0] for i in range(100)]
        display = [bisect_right(times, moment) - 1 for moment in due if moment < end]
        assert chosen == display
    every = choose(times, moments(span, Request(1000, 8, fps=float(rate))))
    assert every == list(range(300))


def test_more_moments_than_frames_allowed_are_spread_over_the_range() -> None:
    span = Span(Fraction(1, 1000), 0, 99_000, None, 1000)
    assert wanted(span, Request(100, 8, fps=1)) == 100
    capped = Request(10, 8, fps=1)
    assert wanted(span, capped) == 10
    assert moments(span, capped) == moments(span, Request(10, 8))


def test_ten_hours_by_the_second_are_planned_at_once() -> None:
    for period in (None, Fraction(512)):
        span = Span(Fraction(1, 15360), 0, 36_000 * 15360 - 512, period, 512)
        begun = time.process_time()
        asked = moments(span, Request(1 << 20, 8, fps=1))
        assert time.process_time() - begun < 2
        assert len(asked) == 36_000
        assert asked == sorted(set(asked))
    endless = Span(Fraction(1, 1000), 0, 1 << 60, None)
    assert len(moments(endless, Request(64, 8, fps=1e9))) == 64


@pytest.mark.parametrize("name", ["gop12.mp4", "b.mkv", "b.ts", "b.avi", "vp9.webm", "open-gop.ts"])
def test_a_stream_by_the_second(
    name: str, clip: Callable[[str], Path], truth: Callable[[Path], Any], decoder: Decoder
) -> None:
    path = clip(name)
    every = truth(path)
    items, end = split(decoder, path, Request(100, SIZE, fps=5))
    rate = decoder.probe(path).fps
    times = [round(i / rate, 3) if name == "b.avi" else time for i, (time, _) in enumerate(every)]
    for index, item in enumerate(items):
        place = bisect_right(times, index / 5 + 1e-6) - 1
        assert isinstance(item, Frame)
        np.testing.assert_array_equal(item.pixels, every[place][1])
    assert end == End(11 if name == "b.mkv" else 10, True, items[-1].seconds)  # 60 / 29.97 > 2 s
    part, end = split(decoder, path, Request(100, SIZE, fps=10, start=0.5, stop=1.0))
    assert end.wanted == 6
    assert seconds(part) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], abs=1.1 / rate)


@pytest.mark.parametrize("decoder_name", DECODERS)
def test_a_burst_by_the_second(
    decoder_name: Any, tmp_path: Path, write_clip: Callable[..., Path], decoder: Decoder
) -> None:
    """Unlike a number of frames, a pace does not give a burst's frames because there is room."""
    burst = [0, 2000, 2010, 2020, 2030, 2040, 9000, 9500, 30000]
    path = write_clip(
        tmp_path / "variable.mkv", pts=burst, tick=Fraction(1, 1000), options={"bf": "0"}
    )
    request = Request(1000, SIZE, fps=1, decoder=decoder_name)
    items, end = split(decoder, path, request)
    assert seconds(items) == pytest.approx([0, 2, 2.04, 9, 9.5, 30])
    assert end.wanted >= 31
    assert end.complete


# What is left out


def still(index: int = 0) -> NDArray[np.uint8]:
    """A textured picture, 240 x 320."""
    coarse = np.random.default_rng(3).integers(40, 200, (15, 20, 3), np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)


def with_dot(x: int, side: int = 8) -> NDArray[np.uint8]:
    picture = still()
    picture[100 : 100 + side, x : x + side] = 255 - picture[100 : 100 + side, x : x + side]
    return picture


@pytest.mark.parametrize("decoder_name", DECODERS)
def test_repeats_are_told_and_not_sent(
    decoder_name: Any, film: Callable[..., Path], decoder: Decoder
) -> None:
    path = film([still()] * 4 + [with_dot(150)] * 3 + [still()] * 3)
    request = Request(10, SIZE, decoder=decoder_name, skip_duplicates=16.0)
    items, end = split(decoder, path, request)
    assert [isinstance(item, Frame) for item in items] == [i in {0, 4, 7} for i in range(10)]
    assert seconds(items) == pytest.approx(list(range(10)))
    assert end == End(10, True, 9.0)
    assert seconds(list(decoder.frames(path, request))) == pytest.approx([0, 4, 7])
    # What is sent is what would have been sent anyway.
    whole, _ = split(decoder, path, Request(10, SIZE, decoder=decoder_name))
    for place in (0, 4, 7):
        sent, same = items[place], whole[place]
        assert isinstance(sent, Frame)
        assert isinstance(same, Frame)
        np.testing.assert_array_equal(sent.pixels, same.pixels)


def test_slow_drift_is_seen_in_the_end(film: Callable[..., Path], decoder: Decoder) -> None:
    """No step is above the threshold; compared with the frame before, all would be repeats."""
    path = film([np.full((64, 96, 3), 60 + 2 * i, np.uint8) for i in range(40)], crf=10)
    items, _ = split(decoder, path, Request(40, SIZE, skip_duplicates=12.0))
    sent = [int(item.seconds) for item in items if isinstance(item, Frame)]
    assert 5 <= len(sent) <= 8
    assert max(np.diff([*sent, 40])) <= 8


def test_without_a_threshold_nothing_is_left_out(
    film: Callable[..., Path], decoder: Decoder
) -> None:
    items, _ = split(decoder, film([still()] * 5), Request(5, SIZE))
    assert all(isinstance(item, Frame) for item in items)


# How it ends


def test_a_truncated_file_says_so(
    tmp_path: Path, write_clip: Callable[..., Path], decoder: Decoder
) -> None:
    whole = write_clip(tmp_path / "whole.mp4", container={"movflags": "faststart"})
    _, end = split(decoder, whole, Request(5, SIZE))
    assert (end.wanted, end.complete) == (5, True)
    assert end.reached_seconds == pytest.approx(59 / 30)
    half = tmp_path / "half.mp4"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    probe = decoder.probe(half)
    assert probe.declared_seconds == pytest.approx(2)
    for request in (Request(5, SIZE), Request(50, SIZE, fps=5)):
        items, end = split(decoder, half, request)
        assert not end.complete
        assert end.reached_seconds == items[-1].seconds <= probe.seconds < 1.6
    # Of a part that is all there, nothing is missing.
    _, end = split(decoder, half, Request(3, SIZE, stop=0.3))
    assert end.complete


def test_a_damaged_end_says_so(
    tmp_path: Path, write_clip: Callable[..., Path], decoder: Decoder
) -> None:
    """The last third of the pictures is overwritten; the index is whole."""
    path = write_clip(tmp_path / "spoilt.mp4", gop=12)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
    data[begin + size * 2 // 3 : begin + size] = bytes(size - size * 2 // 3)
    path.write_bytes(data)
    items, end = split(decoder, path, Request(20, SIZE))
    assert decoder.probe(path).declared_seconds == pytest.approx(2)
    assert not end.complete
    assert end.reached_seconds == items[-1].seconds < 1.6


# What makes no sense


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fps": 0.0}, "fps is 0; it can be any number above 0"),
        ({"fps": -1.0}, "fps is -1"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": float("inf")}, "fps is inf"),
        ({"start": float("inf")}, "start is inf s; it can be 0 or more"),
        ({"stop": float("inf")}, "stop is inf s"),
        ({"stop": float("nan")}, "stop is nan s"),
        ({"start": 1.0, "stop": 1.0}, "stop is 1 s; it can be anything after 1 s"),
        ({"skip_duplicates": -1.0}, "skip_duplicates is -1; it can be 0 to 255"),
        ({"skip_duplicates": float("nan")}, "skip_duplicates is nan"),
        ({"frames": 1 << 30}, "frames is 1073741824; it can be 1 to 1048576"),
    ],
)
def test_impossible_paces_and_ranges(
    changes: dict[str, Any], says: str, tiny_video: Path, decoder: Decoder
) -> None:
    with pytest.raises(SettingError) as caught:
        decoder.stream(tiny_video, Request(**{"frames": 4, "size": 8, **changes}))
    assert says in str(caught.value)


def test_a_range_of_which_nothing_decodes(
    tmp_path: Path, write_clip: Callable[..., Path], decoder: Decoder
) -> None:
    path = write_clip(tmp_path / "spoilt.mp4", gop=12)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
    data[begin + size // 3 : begin + size] = bytes(size - size // 3)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"no frame of it from 1\.2 to 1\.5 s can be decoded"):
        list(decoder.stream(path, Request(4, SIZE, start=1.2, stop=1.5)))


@pytest.mark.parametrize("start", [2.0, 5.0, 1e300])
def test_a_range_after_the_end(start: float, tiny_video: Path, decoder: Decoder) -> None:
    with pytest.raises(InputError, match=r"lasts 2\.00 s, so nothing starts at"):
        decoder.stream(tiny_video, Request(4, 8, start=start))
