"""Subtitle files of every kind and in every state: the lines they say, or one error."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce import subtitles
from tokenreduce.captions import MAX_CHARACTERS, MAX_CUES, Line, lines, packed, unpacked
from tokenreduce.errors import InputError
from tokenreduce.subtitles import read

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello there,
<i>General</i> <font color="white" size=".72c">Kenobi</font>

2
00:00:03,000 --> 00:00:04,000
{\\an8}AT&amp;T is 1 < 2 and 3 > 2 {sic}
"""
SAID = (
    Line(1.0, 2.5, "Hello there, General Kenobi"),
    Line(3.0, 4.0, "AT&T is 1 < 2 and 3 > 2 {sic}"),
)
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start position:0%
Hello there,
<v Ben><c.loud>General</c> Kenobi</v>

NOTE not said

second
01:00:03.000 --> 01:00:04.000
so<00:00:03.200><c> this</c><00:00:03.500><c> is</c> it
"""
ASS = r"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,zwanzig

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,not said
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,second, with a comma
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,x,0,0,,{\pos(1,2)\i1}Hello{\i0}\Nthere,\hyou
Dialogue: 1,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\p1}m 0 0 l 100 100{\p0}
Dialogue: 0,broken,0:00:02.50,Default,,0,0,0,,not said
Dialogue: 0,0:00:01.00
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "subs.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


Write = Callable[[str | bytes], Path]


def test_subrip(file: Write) -> None:
    assert read(file(SRT)) == SAID
    assert read(file(SRT.replace("\n", "\r\n"))) == SAID
    assert read(file(SRT.replace("\n", "\r"))) == SAID


def test_webvtt(file: Write) -> None:
    assert read(file(VTT)) == (
        Line(1.0, 2.5, "Hello there, General Kenobi"),
        Line(3603.0, 3604.0, "so this is it"),
    )


def test_substation_alpha(file: Write) -> None:
    said = (Line(1.0, 2.5, "Hello there, you"), Line(3.0, 4.0, "second, with a comma"))
    assert read(file(ASS)) == said
    old = ASS.replace("v4.00+", "v4.00").replace("V4+", "V4").replace(": 0,0", ": Marked=0,0")
    assert read(file(old)) == said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings(file: Write, encoding: str) -> None:
    notes: list[str] = []
    assert read(file(SRT.replace("Hello", "Žluť 你好").encode(encoding)), notes.append) == (
        Line(1.0, 2.5, "Žluť 你好 there, General Kenobi"),
        SAID[1],
    )
    assert not notes


@pytest.mark.parametrize(
    ("encoding", "word", "named"),
    [
        ("cp1252", "Café “así”", "Windows-1252"),
        ("latin-1", "Caf\x81é", "Latin-1"),
        ("utf-16-le", "Café", "UTF-16-LE"),
        ("utf-16-be", "Café", "UTF-16-BE"),
    ],
)
def test_a_guessed_encoding_is_noted(file: Write, encoding: str, word: str, named: str) -> None:
    notes: list[str] = []
    said = read(file(SRT.replace("Hello", word).encode(encoding)), notes.append)
    assert said[0].text == f"{word.replace(chr(0x81), ' ')} there, General Kenobi"
    assert [named in note and "\n" not in note for note in notes] == [True]


def test_lines_out_of_order_are_sorted() -> None:
    assert lines([(5, 6, "b"), (1, 2, "a"), (5, 5.5, "c")]) == (
        Line(1, 2, "a"),
        Line(5, 5.5, "c"),
        Line(5, 6, "b"),
    )


def test_rolling_captions_are_told_once() -> None:
    """As YouTube makes them: each row comes, stays for 10 ms alone, and stays above the next."""
    rolling = [
        (0.0, 2.0, " \nhello there"),
        (2.0, 2.01, "hello there\n "),
        (2.01, 4.0, "hello there\ngeneral"),
        (4.0, 4.01, "general"),
        (4.01, 6.0, "general\nhello there"),
    ]
    assert lines(rolling) == (
        Line(0.0, 2.01, "hello there"),
        Line(2.01, 4.01, "general"),
        Line(4.01, 6.0, "hello there"),
    )


def test_layers_and_single_frames_of_one_text_are_one_line() -> None:
    layers = [(1.0, 2.0, "a"), (1.0, 2.0, "b")] * 2
    assert lines(layers) == (Line(1.0, 2.0, "a"), Line(1.0, 2.0, "b"))
    frames = [(i / 24, (i + 1) / 24, "sign") for i in range(48)]
    assert lines(frames) == (Line(0.0, 2.0, "sign"),)


def test_a_word_said_again_after_a_pause_is_told_again() -> None:
    assert len(lines([(1, 2, "No."), (2.5, 3, "No.")])) == 2


def test_a_cue_without_an_end_lasts_until_the_next_or_five_seconds() -> None:
    cues = [(1, 1, "a"), (1, 0, "b"), (3, 3, "c"), (20, 21, "d")]
    assert [(one.start_seconds, one.end_seconds) for one in lines(cues)] == [
        (1, 3),
        (1, 3),
        (3, 8),
        (20, 21),
    ]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a\x00b\x1b[31mc", "a b [31mc"),
        ("a\u202eb\u200fc\ufeff", "abc"),
        ("a\ud800b", "ab"),
        ("a<br>b<BR/>c", "a b c"),
        ("I <3 you, a<b>c</b> <x>", "I <3 you, ac <x>"),
        ("&lt;i&gt; &amp;amp; &nbsp; &copy", "<i> &amp; &copy"),
        ("👩\u200d🚀 می\u200cشود", "👩\u200d🚀 می\u200cشود"),
        ("x" * 10_000, "x" * MAX_CHARACTERS),
        ("\n".join("abcdefghijkl"), "a b c d e f g h"),
    ],
)
def test_what_is_no_text_is_removed(raw: str, text: str) -> None:
    assert [one.text for one in lines([(0, 1, raw)])] == [text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        ("just some text\n", "is no subtitle file that is read; allowed are srt, vtt, ass and ssa"),
        (bytes(range(256)) * 40, "is no subtitle file that is read"),
        ("<tt xmlns='http://www.w3.org/ns/ttml'><p begin='0s'>a</p></tt>", "is no subtitle file"),
        ("{0}{25}a MicroDVD line\n", "is no subtitle file that is read"),
        ("WEBVTT\n\n", "holds no subtitles"),
        ("1\n00:00:01,000 --> 00:00:02,000\n<i></i>\n", "holds no subtitles"),
        ("-->", "holds no subtitles"),
        ("[Script Info]\n[Events]\n", "holds no subtitles"),
    ],
)
def test_what_is_no_subtitle_file_is_one_line(
    file: Write, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(file(content))
    assert f"subs.txt: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.srt")
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)


def test_limits_are_named(file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    many = "".join(f"\n0:0:{i % 60}.0 --> 0:0:{i % 60}.9\nx\n" for i in range(MAX_CUES + 1))
    with pytest.raises(InputError, match="has more than 100,000 subtitles"):
        read(file(many))
    monkeypatch.setattr(subtitles, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match="is larger than 1 MB"):
        read(file(many))


def test_a_time_without_its_hour_is_read(file: Write) -> None:
    assert len(read(file("WEBVTT\n\n:00:01.000 --> ::00:02.000\na\n"))) == 1


def test_what_the_parser_cannot_take_is_one_line(
    file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("invalid literal")

    monkeypatch.setattr("pysubs2.SSAFile.from_string", fail)
    with pytest.raises(InputError, match="is damaged; choose or export the file again"):
        read(file(SRT))


BLOCK = b"1\n00:00:01,000 --> 00:00:02,000\n"


@pytest.mark.parametrize(
    "content",
    [
        BLOCK + b"a" + b"\n" * 500_000 + b"b",
        BLOCK + b"a" + b"\n \t" * 200_000 + b"b",
        BLOCK + b"a\n" + b"1" * 500_000 + b"b",
        BLOCK + b"<i" * 250_000,
        BLOCK + b"{\\" * 250_000,
        b"WEBVTT\n\n00:01.000 --> 00:02.000\na" + b"<1" * 250_000,
        b"[Events]\nDialogue: 0,0:0:1.0,0:0:2.0,D,,0,0,0,,a" + b"{\\p" * 150_000,
    ],
    ids=["blank", "spaced", "digits", "tags", "overrides", "times", "drawings"],
)
def test_no_text_takes_more_than_linear_time(file: Write, content: bytes) -> None:
    path = file(content)
    begun = time.process_time()
    assert read(path)
    assert time.process_time() - begun < 5  # measured: .05; quadratic would take minutes


@given(st.binary(max_size=300), st.sampled_from([b"", BLOCK, VTT.encode(), ASS.encode()]))
def test_any_bytes_give_lines_or_one_error(tail: bytes, head: bytes) -> None:
    check(head + tail)


@given(
    st.sampled_from([SRT, VTT, ASS]),
    st.lists(st.tuples(st.integers(0, 700), st.text(":,.->\\{}<[]\n 0123456789aN", max_size=6))),
)
def test_damaged_files_give_lines_or_one_error(text: str, damage: list[tuple[int, str]]) -> None:
    for at, piece in damage:
        text = text[:at] + piece + text[at + len(piece) :]
    check(text.encode())


def check(content: bytes) -> None:
    with suppress(InputError):
        said = subtitles.parsed(content, "x")[0]
        assert all(one.text for one in said)
        assert not {unicodedata.category(c) for one in said for c in one.text} & {"Cc", "Cs"}
        assert all(0 <= one.start_seconds <= one.end_seconds for one in said)
        assert list(said) == sorted(said, key=lambda one: one.start_seconds)


@given(st.lists(st.tuples(st.floats(), st.floats(), st.text())))
def test_cues_travel_between_processes(cues: list[tuple[float, float, str]]) -> None:
    back = unpacked(packed(cues))
    assert packed(back) == packed(cues)
    assert lines(back) == lines(cues)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"[1]", b"[[1.0,2.0]]", b'[["a",1.0,"b"]]', b"[[1,2,3]]", b"[" * 100_000),
        *(b"[[" + b"9" * 5000 + b',1.0,"a"]]', b"\xff"),
    ],
)
def test_what_no_child_sends_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpacked(data)
