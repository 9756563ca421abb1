"""Subtitle files read as something that may be hostile, and told to a model.

Knows neither videos nor models: a track inside a video comes from `video`, a token counter from
whoever asks.
"""

from __future__ import annotations

import codecs
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pysubs2

from tokenreduce.captions import MAX_CUES, Cue, Line, lines, without_styling
from tokenreduce.errors import InputError
from tokenreduce.evenly import evenly, most_that_fit
from tokenreduce.video.inputs import checked, shown

MAX_BYTES = 16 << 20
"""Hundreds of hours of speech; read in some seconds and half a gigabyte at worst."""

MOST_TOKENS = 2048
"""Of the told subtitles, unless the caller says otherwise: about 130 lines of English."""

_HEADING = "This video's subtitles are listed below:"
_ALLOWED = "srt, vtt, ass and ssa"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLANK = re.compile(r"\n{3,}")
# Of WebVTT: the time of a word, and an hour that is missing before its colon.
_MISLEADING = re.compile(r"<\d[\d:.]*>|(?<!\d):+(?=\d\d:\d\d\.\d\d)")
_ASS_TIME = re.compile(r"\s*-?\d{1,2}:\d{1,2}:\d{1,2}[.,]\d{1,3}\s*", re.ASCII)


def _silent(message: str) -> None:
    """Nobody is told."""


def read(path: str | os.PathLike[str], warn: Callable[[str], None] = _silent) -> tuple[Line, ...]:
    """What a .srt, .vtt, .ass or .ssa file says, by what is in it and not by its name.

    warn: is told in one line what was guessed. Raises InputError if the file cannot be read, is
    larger than MAX_BYTES, has more than MAX_CUES, is of another kind, or says nothing.
    """
    name = shown(path)
    with open(checked(path), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{name}: is larger than {MAX_BYTES >> 20} MB, the most a subtitle file may have; "
            "choose another"
        )
    told, guess = parsed(data, name)
    if guess:
        warn(
            f"{name}: is not UTF-8 and was read as {guess}; if letters are wrong, save it as UTF-8"
        )
    return told


def parsed(data: bytes, name: str) -> tuple[tuple[Line, ...], str]:
    """What a file of these bytes says, and its encoding if that was only a guess, else "".

    name: for messages. Raises InputError as `read` does.
    """
    text, guess = _decoded(data)
    kind = _kind(text)
    if kind is None:
        raise InputError(
            f"{name}: is no subtitle file that is read; allowed are {_ALLOWED}: convert it"
        )
    try:
        cues = list(islice(_cues(text, kind), MAX_CUES + 1))
    except ValueError:  # none is known that gets here
        raise InputError(f"{name}: is damaged; choose or export the file again") from None
    if len(cues) > MAX_CUES:
        raise InputError(
            f"{name}: has more than {MAX_CUES:,} subtitles, the most that are read; cut it"
        )
    told = lines(cues)
    if not told:
        raise InputError(f"{name}: holds no subtitles; choose another file, or none")
    return told, guess


def _decoded(data: bytes) -> tuple[str, str]:
    """The text, and the encoding's name if it was only a guess."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, "replace"), ""
    even, odd = data[0:4096:2], data[1:4096:2]
    for places, encoding in ((odd, "utf-16-le"), (even, "utf-16-be")):
        if places.count(0) > len(places) / 2:
            return data.decode(encoding, "replace"), encoding.upper()
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "Latin-1"


def _kind(text: str) -> str | None:
    """vtt, ass (SSA too) or srt. TTML, SAMI and other XML are not read, nor guessed at."""
    beginning = text[:4096].lstrip().upper()
    if beginning.startswith("WEBVTT"):
        return "vtt"
    if "[SCRIPT INFO]" in beginning or "[EVENTS]" in beginning:
        return "ass"
    return "srt" if "-->" in text else None


def _cues(text: str, kind: str) -> Iterator[Cue]:
    """The cues as pysubs2 reads them, from a text that it reads correctly and in linear time."""
    rows = (row.strip() for row in text.splitlines())
    if kind == "ass":
        plain = "[Events]\n" + "\n".join(_plain_events(rows))
    else:
        # pysubs2 looks for what follows a run of blank rows once for each of them.
        plain = _BLANK.sub("\n\n", "\n".join(rows))
    if kind == "vtt":
        # A row in which two words have times would pass for the beginning of a cue.
        plain = _MISLEADING.sub("", plain)
    for event in pysubs2.SSAFile.from_string(plain, kind, keep_html_tags=True):
        said = without_styling(event.text) if kind == "ass" else event.text.replace(r"\N", "\n")
        if kind == "vtt":  # what follows a blank row is the next cue's name, or a note
            said = said.split("\n\n", 1)[0]
        yield event.start / 1000, event.end / 1000, said


def _plain_events(rows: Iterator[str]) -> Iterator[str]:
    """Each event with its times and its text alone, so that no style or margin can be wrong."""
    for row in rows:
        if row.startswith("Dialogue:"):
            fields = row.removeprefix("Dialogue:").split(",", 9)
            if len(fields) == 10 and all(_ASS_TIME.fullmatch(time) for time in fields[1:3]):
                yield f"Dialogue: 0,{fields[1]},{fields[2]},Default,,0,0,0,,{fields[9]}"


@dataclass(frozen=True)
class Told:
    """Subtitles as a model is told them.

    text   to stand right before the question, a line break between; "" if there is nothing to tell
    lines  how many it tells         of  how many there are in the range
    """

    text: str
    lines: int
    of: int

    @property
    def left_out(self) -> int:
        return self.of - self.lines


def told(
    said: Sequence[Line],
    count: Callable[[str], int],
    *,
    start_seconds: float = 0.0,
    stop_seconds: float | None = None,
    frame_seconds: Sequence[float] | None = None,
    most_tokens: int = MOST_TOKENS,
) -> Told:
    """Subtitles in the form of Video-MME's evaluation, within a range and a number of tokens.

    said           as `read` gives them
    count          tokens of a text; it is asked about the text of the answer alone
    start, stop    only lines on display between them; a stop of None is the end of the video
    frame_seconds  ascending times of the frames used: only lines on display at one of them, as
                   Video-MME has it. None: all lines of the range
    most_tokens    0 or more. Lines that do not fit are left out evenly over the range

    The form, from the README of github.com/MME-Benchmarks/Video-MME ("Evaluation Pipeline",
    arXiv 2405.21075): this heading, then one subtitle a row, then the question. The same place
    says to use only the subtitles that correspond to the frames. Its script (video-slicer of
    look4u-ok) takes the first line on display at each frame, again for each frame; as in
    lmms-eval, each line stands here once, with all that are on display.
    """
    stop = float("inf") if stop_seconds is None else stop_seconds
    heard = [one for one in said if one.end_seconds > start_seconds and one.start_seconds <= stop]
    texts = [one.text for one in heard if frame_seconds is None or _on_display(one, frame_seconds)]

    def form(kept: int) -> str:
        return "\n".join([_HEADING, *(texts[i] for i in evenly(len(texts), kept))])

    kept = most_that_fit(lambda n: count(form(n)), len(texts), most_tokens)
    return Told(form(kept) if kept else "", kept, len(heard))


def _on_display(line: Line, times: Sequence[float]) -> bool:
    """Whether one of the ascending `times` lies in [start, end)."""
    at = bisect_left(times, line.start_seconds)
    return at < len(times) and times[at] < line.end_seconds
