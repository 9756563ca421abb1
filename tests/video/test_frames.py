"""The frames that come out of the child, against a decode of the whole file from start to end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tokenreduce.errors import InputError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Frame, Request

Truth = list[tuple[float, NDArray[np.uint8]]]
SIZE = 48
CLIPS = [
    "gop12.mp4", "gop250.mp4", "no-b.mkv", "b.mkv", "b.ts", "b.flv", "b.avi", "fragmented.mp4",
    "mpeg4.avi", "mpeg2.mpg", "wmv.asf", "hevc.mp4", "hevc10.mkv", "vp9.webm", "vp8.webm",
    "av1.mp4", "animation.gif", "odd.mp4", "open-gop.ts", "interlaced.ts",
]  # fmt: skip


def places(frames: Sequence[Frame], truth: Truth) -> list[int]:
    """Which of the true frames each frame is, byte for byte and by its time."""
    found = []
    for frame in frames:
        same = [i for i, (_, pixels) in enumerate(truth) if np.array_equal(pixels, frame.pixels)]
        assert same, f"no frame of the file looks like the one at {frame.seconds}"
        found.append(min(same, key=lambda i: abs(truth[i][0] - frame.seconds)))
    return found


@pytest.mark.parametrize("name", CLIPS)
def test_exact_frames_of_every_container_and_codec(
    name: str,
    clip: Callable[[str], Path],
    truth: Callable[[Path], Truth],
    decoder: Decoder,
) -> None:
    path = clip(name)
    every = truth(path)
    probe = decoder.probe(path)
    assert len(every) == 60
    assert probe.seconds == pytest.approx(60 / probe.fps, abs=0.002)
    assert probe.constant_rate
    for wanted in (1, 2, 7, 64):
        frames = list(decoder.frames(path, Request(wanted, SIZE), probe))
        expected = list(dict.fromkeys(np.linspace(0, 59, wanted).astype(int).tolist()))
        assert places(frames, every) == expected
        if name != "b.avi":  # its own times are those of decoding
            times = [every[i][0] for i in expected]
            assert [f.seconds for f in frames] == pytest.approx(times, abs=1e-6)
        assert frames[0].seconds == 0
        assert {(f.pixels.shape, f.pixels.dtype.name) for f in frames} == {
            ((SIZE, SIZE, 3), "uint8")
        }


@pytest.mark.parametrize("name", ["gop12.mp4", "b.mkv", "b.ts", "b.flv", "vp9.webm", "hevc.mp4"])
def test_keyframe_seeking_snaps_to_the_key_frame_at_or_before(
    name: str,
    clip: Callable[[str], Path],
    truth: Callable[[Path], Truth],
    decoder: Decoder,
) -> None:
    path = clip(name)
    with av.open(str(path)) as file:
        keys = [i for i, frame in enumerate(file.decode(video=0)) if frame.key_frame]
    assert len(keys) > 3
    frames = list(decoder.frames(path, Request(3, SIZE, seek="keyframe")))
    expected = [max(key for key in keys if key <= target) for target in (0, 29, 59)]
    assert places(frames, truth(path)) == expected


@pytest.mark.parametrize("wanted", [3, 7, 12])
def test_no_half_refreshed_pictures(
    wanted: int, clip: Callable[[str], Path], truth: Callable[[Path], Truth], decoder: Decoder
) -> None:
    """Recovery points of an intra-refresh stream are marked as key frames and are none."""
    path = clip("refresh.mp4")
    every = truth(path)
    frames = list(decoder.frames(path, Request(wanted, SIZE)))
    assert places(frames, every) == np.linspace(0, 149, wanted).astype(int).tolist()
    places(list(decoder.frames(path, Request(wanted, SIZE, seek="keyframe"))), every)


def test_titles_in_any_encoding(
    tmp_path: Path, write_clip: Callable[..., Path], decoder: Decoder
) -> None:
    path = write_clip(tmp_path / "title.mkv", frames=3)
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"L\xe4vf"))
    assert decoder.probe(path).codec == "h264"


@pytest.mark.parametrize("name", ["gop12.mp4", "b.mkv", "b.ts", "mpeg4.avi", "vp9.webm"])
def test_damage_gives_frames_or_one_clear_line(
    name: str, tmp_path: Path, clip: Callable[[str], Path], decoder: Decoder
) -> None:
    random = np.random.default_rng(7)
    whole = clip(name).read_bytes()
    for turn in range(8):
        data = bytearray(whole)
        for _ in range(6):  # the header of some containers lies at the end
            at = random.integers(2000) * (1 if turn % 2 else -1)
            data[int(at) % len(data)] = random.integers(256)
        path = tmp_path / f"damaged-{turn}-{name}"
        path.write_bytes(data[: len(data) // 2] if turn == 7 else data)
        seconds, refusal = [], ""
        try:
            seconds = [frame.seconds for frame in decoder.frames(path, Request(6, 16))]
        except InputError as error:
            refusal = str(error)
        assert "\n" not in refusal
        assert 1 <= len(seconds) <= 6 or refusal
        assert seconds == sorted(set(seconds))


def test_where_key_frames_are_too_few_the_exact_frame_is_given(
    clip: Callable[[str], Path], truth: Callable[[Path], Truth], decoder: Decoder
) -> None:
    path = clip("gop250.mp4")
    frames = list(decoder.frames(path, Request(7, SIZE, seek="keyframe")))
    assert places(frames, truth(path)) == np.linspace(0, 59, 7).astype(int).tolist()


@pytest.mark.parametrize("name", ["gop12.mp4", "b.ts"])
def test_a_range_of_the_video(
    name: str,
    clip: Callable[[str], Path],
    truth: Callable[[Path], Truth],
    decoder: Decoder,
) -> None:
    path = clip(name)
    frames = list(decoder.frames(path, Request(4, SIZE, start=0.5, stop=1.1)))
    assert places(frames, truth(path)) == [15, 21, 27, 33]


BURST = [0, 2000, 2010, 2020, 2030, 2040, 9000, 9500, 30000]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_variable_rate_is_sampled_by_time_and_labelled_with_real_times(
    suffix: str,
    tmp_path: Path,
    write_clip: Callable[..., Path],
    truth: Callable[[Path], Truth],
    decoder: Decoder,
) -> None:
    path = tmp_path / f"variable.{suffix}"
    # x264 without B-frames, or its guesses at decoding times would not fit into such gaps.
    write_clip(path, pts=BURST, tick=Fraction(1, 1000), options={"bf": "0"})
    every = truth(path)
    probe = decoder.probe(path)
    assert not probe.constant_rate
    assert probe.last_seconds - probe.first_seconds == pytest.approx(30)
    frames = list(decoder.frames(path, Request(4, SIZE), probe))
    # At 0, 10, 20 and 30 s; the frame of 9.5 s is on display at two of them and comes once.
    assert places(frames, every) == [0, 7, 8]
    assert [f.seconds for f in frames] == pytest.approx([0, 9.5, 30])
    # Asked for more than there are: each frame of the burst as well.
    frames = list(decoder.frames(path, Request(20, SIZE), probe))
    assert [f.seconds for f in frames] == pytest.approx([time / 1000 for time in BURST])
    frames = list(decoder.frames(path, Request(20, SIZE, start=2.005, stop=9.1), probe))
    assert [f.seconds for f in frames] == pytest.approx([2.0, 2.01, 2.02, 2.03, 2.04, 9.0])


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_rotation_is_applied(
    matrix: tuple[int, int, int, int],
    tmp_path: Path,
    tiny_video: Path,
    turned: Callable[..., Path],
    decoder: Decoder,
) -> None:
    path = turned(tiny_video, tmp_path / "turned.mp4", matrix)
    degrees = {(0, 1): 90, (-1, 0): 180, (0, -1): 270}[matrix[:2]]
    probe = decoder.probe(path)
    assert probe.rotation == degrees
    assert (probe.width, probe.height) == ((96, 64) if degrees == 180 else (64, 96))
    (straight,) = decoder.frames(tiny_video, Request(1, SIZE))
    (frame,) = decoder.frames(path, Request(1, SIZE))
    expected = np.rot90(straight.pixels, -degrees // 90).astype(int)
    # Turned before it is resized, so rounding may differ by a level.
    assert np.abs(frame.pixels - expected).max() <= 1


def test_a_cut_without_encoding_shows_only_what_its_edit_list_shows(
    tmp_path: Path,
    clip: Callable[[str], Path],
    truth: Callable[[Path], Truth],
    decoder: Decoder,
) -> None:
    """`ffmpeg -ss 0.7 -c copy`: packets from the key frame before, an edit list that hides some."""
    path = tmp_path / "cut.mp4"
    with (
        av.open(str(clip("gop12.mp4"))) as source,
        av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream: Any = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        cut = int(0.7 / stream.time_base)
        source.seek(cut, stream=stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - cut, packet.dts - cut
                packet.stream = copy
                target.mux(packet)
    every = truth(path)
    probe = decoder.probe(path)
    assert probe.frames > len(every), "the header counts hidden frames"
    assert probe.seconds == pytest.approx(len(every) / 30, abs=0.001)
    frames = list(decoder.frames(path, Request(5, SIZE), probe))
    assert places(frames, every) == np.linspace(0, len(every) - 1, 5).astype(int).tolist()


def test_one_frame(tmp_path: Path, write_clip: Callable[..., Path], decoder: Decoder) -> None:
    path = write_clip(tmp_path / "one.mp4", frames=1)
    probe = decoder.probe(path)
    assert probe.seconds == pytest.approx(1 / 30)
    for request in (Request(64, SIZE), Request(64, SIZE, seek="keyframe")):
        (frame,) = decoder.frames(path, request)
        assert frame.seconds == 0


def test_a_truncated_file_gives_the_frames_there_are(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    truth: Callable[[Path], Truth],
    decoder: Decoder,
) -> None:
    whole = write_clip(tmp_path / "whole.mp4", container={"movflags": "faststart"})
    half = tmp_path / "half.mp4"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    probe = decoder.probe(half)
    frames = list(decoder.frames(half, Request(8, SIZE), probe))
    assert probe.frames == 60
    assert 0.3 < probe.seconds < 1.8
    assert 1 <= len(frames) <= 8
    chosen = places(frames, truth(whole))
    assert chosen == sorted(set(chosen))
    assert chosen[-1] < 55


@pytest.mark.parametrize(
    "name",
    ["12:30 talk.mp4", "two\nlines.mp4", "-rf.mp4", "concat:a|b.mp4", "%03d.mp4", "sans-suffix",
     "ünï → 🎬 'q\".mp4", b"not \xff utf-8.mp4", "x" * 250],
)  # fmt: skip
def test_any_file_name_from_its_own_folder(
    name: str | bytes,
    tmp_path: Path,
    tiny_video: Path,
    decoder: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    given = os.fsdecode(name)
    try:
        shutil.copy(tiny_video, given)
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    probe = decoder.probe(given)
    assert probe.path == given
    assert len(list(decoder.frames(given, Request(3, SIZE), probe))) == 3


def test_a_symbolic_link_is_followed(tmp_path: Path, tiny_video: Path, decoder: Decoder) -> None:
    link = tmp_path / "link.mp4"
    link.symlink_to(tiny_video)
    assert decoder.probe(link).seconds == pytest.approx(2)


def test_what_the_probe_says(tiny_video: Path, decoder: Decoder) -> None:
    probe = decoder.probe(tiny_video)
    assert (probe.width, probe.height, probe.fps, probe.codec) == (96, 64, 30.0, "h264")
    assert (probe.frames, probe.rotation, probe.first_seconds) == (60, 0, 0.0)
    assert [probe.seconds, probe.last_seconds] == pytest.approx([2.0, 59 / 30])
    assert probe.constant_rate
    assert probe.path == str(tiny_video)
