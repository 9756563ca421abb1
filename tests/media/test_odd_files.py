"""Files as cameras, downloads, broadcasts and editors leave them: the right frames, and no claims.

Containers, codecs, rotation, edit lists and variable rates: tests/video/test_frames.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenreduce.errors import InputError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.source import demuxed
from tokenreduce.video.types import End, Frame, Request

SIZE = 48
Pictures = Callable[[Path], list[NDArray[np.uint8]]]


def stream(decoder: Decoder, path: Path, request: Request) -> tuple[list[Frame], End]:
    *items, end = decoder.stream(path, request)
    assert isinstance(end, End)
    return [item for item in items if isinstance(item, Frame)], end


def found(frames: list[Frame], true: list[NDArray[np.uint8]], rate: float = 30) -> list[int]:
    """Which of the true pictures each frame is, byte for byte; and that its time is that one's."""
    places = []
    for frame in frames:
        place = round(frame.seconds * rate)
        np.testing.assert_array_equal(frame.pixels, true[place])
        places.append(place)
    return places


# A download that was cut off


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "avi", "ts", "flv", "mpg"])
@pytest.mark.parametrize("share", [0.4, 0.55])
def test_what_is_there_of_a_download_is_right(
    ending: str,
    share: float,
    tmp_path: Path,
    written: Callable[[str], Path],
    pictures: Pictures,
    decoder: Decoder,
) -> None:
    whole = written(ending)
    true = pictures(whole)
    assert stream(decoder, whole, Request(9, SIZE))[1].complete
    path = tmp_path / f"part.{ending}"
    data = whole.read_bytes()
    begin = data.index(b"movi") if ending == "avi" else 0  # half of so small a file is its header
    path.write_bytes(data[: begin + int((len(data) - begin) * share)])
    frames, end = stream(decoder, path, Request(9, SIZE))
    # The last one may be half a picture, which libav patches up.
    found(frames[:-1], true)
    assert 3 <= len(frames) <= 9
    assert end.reached_seconds == frames[-1].seconds < 1.9
    probe = decoder.probe(path)
    if ending in {"mp4", "mkv", "webm", "avi"}:  # the others declare nothing
        assert probe.declared_seconds == pytest.approx(2, abs=0.01)
        assert not end.complete
    by_second, end = stream(decoder, path, Request(100, SIZE, fps=10))
    found(by_second[:-1], true)
    assert ending in {"ts", "flv", "mpg"} or not end.complete


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("sound", "lead"), [(6.0, 0.0), (2.3, 0.0), (3.5, 1.5), (0.5, 0.0)])
def test_a_sound_track_of_another_length_is_no_missing_end(
    ending: str,
    sound: float,
    lead: float,
    tmp_path: Path,
    tiny_video: Path,
    with_sound: Callable[..., Path],
    pictures: Pictures,
    decoder: Decoder,
) -> None:
    path = with_sound(tiny_video, tmp_path / f"talk.{ending}", seconds=sound, lead=lead)
    probe = decoder.probe(path)
    assert probe.seconds == probe.declared_seconds == pytest.approx(2, abs=0.002)
    frames, end = stream(decoder, path, Request(7, SIZE))
    assert found(frames, pictures(tiny_video)) == np.linspace(0, 59, 7).astype(int).tolist()
    assert end.complete


def test_a_broadcast_whose_sound_begins_late(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    with_sound: Callable[..., Path],
    pictures: Pictures,
    decoder: Decoder,
) -> None:
    """A stream that nobody knew of when the file was opened."""
    parts = [write_clip(tmp_path / "a.ts", frames=30), tmp_path / "b.ts"]
    later = write_clip(tmp_path / "later.mp4", pts=range(30, 60), options={"bf": "0"})
    with_sound(later, parts[1], seconds=2.0)
    true = [picture for part in parts for picture in pictures(part)]
    path = tmp_path / "broadcast.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, end = stream(decoder, path, Request(60, SIZE))
    assert end.complete
    for frame in frames:
        assert any(np.array_equal(frame.pixels, picture) for picture in true)
    assert len(frames) >= 55


def test_a_picture_size_that_changes(
    tmp_path: Path, write_clip: Callable[..., Path], pictures: Pictures, decoder: Decoder
) -> None:
    small = write_clip(tmp_path / "small.ts", frames=30, options={"bf": "0"})
    large = write_clip(
        tmp_path / "large.ts", pts=range(30, 60), size=(160, 48), options={"bf": "0"}
    )
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    true = pictures(small) + pictures(large)
    for skip in (None, 10.0):
        frames, _ = stream(decoder, path, Request(60, SIZE, skip_duplicates=skip))
        places = found(frames, true)
        assert min(places) == 0
        assert max(places) > 50


# Pixels of every depth, frames of every shape

FORMATS: dict[str, dict[str, Any]] = {
    "grey.mkv": {"pixels": "gray"},
    "professional.mkv": {"pixels": "yuv422p10le"},
    "deep.mkv": {"codec": "ffv1", "pixels": "rgb48le"},
    "transparent.mkv": {"codec": "ffv1", "pixels": "bgra"},
    "webcam.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "hdr.mp4": {
        "codec": "libx265",
        "pixels": "yuv420p10le",
        "options": {
            "x265-params": "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
        },
    },
    "two-pixels.mp4": {"size": (2, 2)},
    "one-pixel.mkv": {"size": (1, 1), "pixels": "yuv444p"},
    "wide.mp4": {"size": (4096, 16)},
    "tall.mp4": {"size": (16, 2048)},
    "slow.mp4": {"rate": 1},
    "fast.mp4": {"rate": 240},
}


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_and_shapes(
    name: str,
    tmp_path: Path,
    write_clip: Callable[..., Path],
    pictures: Pictures,
    decoder: Decoder,
) -> None:
    path = write_clip(tmp_path / name, frames=9, **FORMATS[name])
    true = pictures(path)
    rate = FORMATS[name].get("rate", 30)
    for skip in (None, 0.0):
        frames, end = stream(decoder, path, Request(5, SIZE, skip_duplicates=skip))
        assert found(frames, true, rate) == [0, 2, 4, 6, 8]
        assert (end.wanted, end.complete) == (5, True)
        assert end.reached_seconds == frames[-1].seconds


# A file that is not the one it was


def test_a_file_that_goes_or_changes_after_it_was_probed(
    tmp_path: Path, tiny_video: Path, written: Callable[[str], Path], decoder: Decoder
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(tiny_video.read_bytes())
    probe = decoder.probe(path)
    path.write_bytes(written("mkv").read_bytes())  # another container, other clock
    frames, end = stream(decoder, path, Request(5, SIZE))
    assert len(frames) == 5
    frames, end = stream(decoder, path, Request(5, SIZE, fps=4))
    assert end.wanted == 5
    assert 1 <= len(list(decoder.stream(path, Request(5, SIZE), probe))) - 1 <= 5
    path.write_bytes(b"no longer a video")
    with pytest.raises(InputError, match="not a video"):
        list(decoder.stream(path, Request(5, SIZE), probe))
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        decoder.stream(path, Request(5, SIZE), probe)
    path.mkdir()
    with pytest.raises(InputError, match="is a directory"):
        decoder.stream(path, Request(5, SIZE), probe)


class Forgetful:
    """PyAV where a stream begins that it does not know: its table of streams is too short."""

    def __init__(self) -> None:
        self._packets = iter([1, 2, None, 3, None, 4])

    def demux(self, *streams: Any) -> Iterator[int]:
        for packet in self._packets:
            if packet is None:
                raise IndexError
            yield packet


def test_streams_that_pyav_does_not_know_of_end_nothing() -> None:
    assert list(demuxed(cast(Any, Forgetful()))) == [1, 2, 3, 4]
