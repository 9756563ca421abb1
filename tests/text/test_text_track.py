"""Subtitles inside a video: written by PyAV in each container's own codec, read in the child."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.subtitles.subtitle import SubtitleSet

from tokenreduce.captions import Line
from tokenreduce.errors import InputError
from tokenreduce.video import text_track
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.process import Child

STYLED = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, "
    b"PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, "
    b"StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, "
    b"MarginR, MarginV, Encoding\nStyle: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,"
    b"100,0,0,1,1,0,2,10,10,10,1\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, "
    b"MarginR, MarginV, Effect, Text\n"
)
Texts = list[tuple[int, int, str]]
SPOKEN: Texts = [(500, 1500, r"hello {\i1}there{\i0}\Nyou, é"), (2000, 3000, "bye <3")]
SAID = (Line(0.5, 1.5, "hello there you, é"), Line(2.0, 3.0, "bye <3"))
MILLISECOND = Fraction(1, 1000)
NO_MARK = Disposition(0)


def film(
    path: Path,
    tracks: list[tuple[str, Texts]],
    marks: tuple[Disposition, ...] = (),
    first: int = 0,
) -> Path:
    """Five seconds of video and its text tracks: codec, and (start, end, text) in ms. first: of
    the first frame's time, in ms."""
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libx264", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        streams = [_track(file, codec) for codec, _ in tracks]
        for stream, mark in zip(streams, marks, strict=False):
            stream.disposition = mark
        packets = []
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i * 5, np.uint8), "rgb24")
            frame.pts = i + first // 100
            packets += video.encode(frame)
        for packet in [*packets, *video.encode()]:
            file.mux(packet)
        for stream, (_, texts) in zip(streams, tracks, strict=True):
            for i, (start, end, text) in enumerate(texts):
                file.mux(_packet(stream, i, start + first, end - start, text))
    return path


def _track(file: Any, codec: str) -> Any:
    stream = file.add_stream(codec)
    stream.codec_context.time_base = stream.time_base = MILLISECOND
    stream.codec_context.subtitle_header = STYLED
    return stream


def _packet(stream: Any, i: int, start: int, lasts: int, text: str) -> Any:
    said = SubtitleSet.create(f"{i},0,Default,,0,0,0,,{text}".encode(), 0, lasts, start * 1000)
    packet = stream.codec_context.encode_subtitle(said)
    packet.stream, packet.time_base = stream, MILLISECOND
    packet.pts = packet.dts = start
    packet.duration = lasts
    return packet


CODECS = [("mov_text", "mp4"), ("subrip", "mkv"), ("ass", "mkv"), ("webvtt", "mkv")]


@pytest.mark.parametrize(("codec", "container"), CODECS, ids=[codec for codec, _ in CODECS])
def test_a_track_is_read(tmp_path: Path, codec: str, container: str) -> None:
    path = film(tmp_path / f"a.{container}", [(codec, SPOKEN)])
    with Decoder() as decoder:
        assert decoder.subtitles(path) == SAID
        assert decoder.subtitles(path, decoder.probe(path)) == SAID


def test_times_are_those_of_the_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "late.mkv", [("subrip", SPOKEN)], first=7000)
    with Decoder() as decoder:
        assert decoder.probe(path).first_seconds == pytest.approx(7)
        said = decoder.subtitles(path)
    assert said is not None
    assert [one.text for one in said] == [one.text for one in SAID]
    assert [one.start_seconds for one in said] == pytest.approx([0.5, 2.0])
    assert [one.end_seconds for one in said] == pytest.approx([1.5, 3.0])


def test_the_default_track_is_taken_else_one_for_all_words(tmp_path: Path) -> None:
    tracks = [("subrip", [(0, 900, "one")]), ("ass", [(0, 900, "two")])]
    with Decoder() as decoder:
        found = [
            decoder.subtitles(film(tmp_path / f"{i}.mkv", tracks, marks))
            for i, marks in enumerate(
                (
                    (Disposition.default, NO_MARK),
                    (NO_MARK, Disposition.default),
                    (Disposition.forced, NO_MARK),
                    (NO_MARK, NO_MARK),
                )
            )
        ]
    one, two = (Line(0, 0.9, "one"),), (Line(0, 0.9, "two"),)
    assert found == [one, two, two, one]


def test_a_video_without_a_text_track_says_so_and_the_child_goes_on(tmp_path: Path) -> None:
    silent = film(tmp_path / "silent.mp4", [])
    spoken = film(tmp_path / "spoken.mp4", [("mov_text", SPOKEN)])
    with Decoder() as decoder:
        assert decoder.subtitles(silent) is None
        child = decoder.pid
        assert decoder.subtitles(spoken) == SAID
        assert decoder.pid == child


def test_an_empty_track_says_nothing(tmp_path: Path) -> None:
    path = film(tmp_path / "empty.mp4", [("mov_text", [(0, 1000, " ")])])
    with Decoder() as decoder:
        assert decoder.subtitles(path) == ()


def test_a_damaged_rest_is_left_out(tmp_path: Path) -> None:
    texts = [(i * 100, i * 100 + 90, f"row {i} " + "x" * 200) for i in range(45)]
    path = film(tmp_path / "a.mkv", [("subrip", texts)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.75)])
    with Decoder() as decoder:
        said = decoder.subtitles(path)
    assert said is not None
    assert 0 < len(said) < 45
    assert [one.text.split()[1] for one in said] == [str(i) for i in range(len(said))]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    with Decoder() as decoder, pytest.raises(InputError, match="mp4: not a video"):
        decoder.subtitles(path)


def test_a_track_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(
        tmp_path / "a.mkv", [("subrip", [(i * 100, i * 100 + 90, "row") for i in range(9)])]
    )
    monkeypatch.setattr(text_track, "MAX_CUES", 4)
    assert [cue[2] for cue in text_track.read(str(path), 0.0, 10**6, lambda: None) or []] == [
        "row"
    ] * 4
    monkeypatch.setattr(text_track, "MAX_TRACK_CHARACTERS", 7)
    assert len(text_track.read(str(path), 0.0, 10**6, lambda: None) or []) == 2


@pytest.mark.parametrize("payload", [b"", b"[[1]]", b"\xff"])
def test_a_child_that_lies_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    path = film(tmp_path / "a.mp4", [])
    with Decoder() as decoder:
        probe = decoder.probe(path)
        lie = {"is": "subtitles", "found": True}, payload
        monkeypatch.setattr(Child, "answer", lambda *_: lie)
        with pytest.raises(InputError, match="mp4: the decoder sent subtitles that are none"):
            decoder.subtitles(path, probe)
        assert decoder.pid is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x00\x05hello\x00\x00\x00\x0cstyl\x00\x00\x00\x00", "hello"),
        (b"\x00\x06\xfe\xff\x00h\x00i", "hi"),
        (b"\x00\x06\xff\xfeh\x00i\x00", "hi"),
        (b"\x00\x00", ""),
        (b"", ""),
        (b"\xff\xffshort\xff", "short\ufffd"),
    ],
)
def test_timed_text_of_mp4(data: bytes, text: str) -> None:
    assert text_track._mov_text(data) == text
