"""Lines that are said or written over a video: cleaned, in order, each told once.

Knows neither subtitle files nor containers: both give cues, which may hold anything.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

MAX_CUES = 100_000
"""More than a whole day of them; beyond it a file is not what it says."""

MAX_TRACK_CHARACTERS = 4 << 20
"""Of a track inside a video; an hour of speech is a hundredth."""

MAX_TRACK_BYTES = 32 << 20
"""Of as many characters packed, each escaped, with the times of MAX_CUES cues."""

MAX_CHARACTERS = 500
"""Of one line. What two rows on a screen hold is under a hundred."""

MAX_ROWS = 8
_MAX_STYLED = 16_000  # characters of a cue with all its tags; the rest is not looked at
TOUCHING_SECONDS = 0.1
"""A row that stays on display from cue to cue leaves no longer gap than this."""

UNTIMED_SECONDS = 5.0
"""How long a cue is shown, at most, that does not say until when."""

Cue = tuple[float, float, str]
"""Start and end in seconds and the text, its rows divided by line breaks."""

# Each pattern can begin anywhere but end only before the next beginning: linear on any text.
_TAG = re.compile(
    r"</?(?:[bisucvp]|br|em|strong|font|span|lang|ruby|rt)(?:[\s.][^<>]*)?/?>|<\d[\d:.]*>",
    re.IGNORECASE,
)
_OVERRIDE = re.compile(r"\{(\\[^{}]*)\}")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|lrm|rlm|#39|#34);")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#34;": '"'} | {
    "&apos;": "'",
    "&#39;": "'",
    "&nbsp;": " ",
    "&lrm;": "",
    "&rlm;": "",
}
_ASS_BLOCK = re.compile(r"\{([^{}]*)\}")
_ASS_DRAWING = re.compile(r"\\p(\d+)")
_ASS_BREAK = re.compile(r"\\[Nn]")
# Marks of the reading direction; the joiners that some scripts and emoji need stay.
_INVISIBLE = frozenset(
    "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
)


@dataclass(frozen=True, slots=True)
class Line:
    """What is said from start to end, in seconds after the first frame. text: one line, tidied."""

    start_seconds: float
    end_seconds: float
    text: str


def lines(cues: Iterable[Cue]) -> tuple[Line, ...]:
    """What the cues say, in order of time and without repetition; at most MAX_CUES of them.

    Tags, control characters and marks of direction are removed. Rolling captions, in which each
    cue repeats the rows that stay on display, say every row once: a cue's first rows are left out
    as far as they are the last rows of a cue that touches it. So is a cue that only repeats the
    one before, as layers, karaoke effects and single frames of typesetting do; the line then
    lasts as long. Two cues in direct succession that say the same word are taken for one.
    """
    kept: list[tuple[float, float, tuple[str, ...]]] = []
    for start, end, text in cues:
        if len(kept) == MAX_CUES:
            break
        if math.isfinite(start) and math.isfinite(end) and (rows := _rows(text)):
            kept.append((max(start, 0.0), max(end, 0.0), rows))
    return _once(_timed(sorted(dict.fromkeys(kept), key=lambda cue: cue[:2])))


def _timed(
    cues: list[tuple[float, float, tuple[str, ...]]],
) -> Iterator[tuple[float, float, tuple[str, ...]]]:
    """An end for cues that have none: the next beginning, but no more than UNTIMED_SECONDS on."""
    following = math.inf
    ends: list[float] = []
    for at, (start, end, _) in enumerate(reversed(cues)):
        later = cues[len(cues) - at][0] if at else math.inf
        following = later if later > start else following
        ends.append(end if end > start else min(following, start + UNTIMED_SECONDS))
    for (start, _, rows), end in zip(cues, reversed(ends), strict=True):
        yield start, end, rows


def _once(cues: Iterable[tuple[float, float, tuple[str, ...]]]) -> tuple[Line, ...]:
    told: list[Line] = []
    shown: tuple[str, ...] = ()
    until = -math.inf
    for start, end, rows in cues:
        stays = _staying(shown, rows) if start <= until + TOUCHING_SECONDS else 0
        if fresh := " ".join(rows[stays:]):
            told.append(Line(start, end, fresh[:MAX_CHARACTERS]))
        elif end > told[-1].end_seconds:
            told[-1] = replace(told[-1], end_seconds=end)
        shown, until = rows, end
    return tuple(told)


def _staying(shown: tuple[str, ...], rows: tuple[str, ...]) -> int:
    """How many of the first `rows` are the last ones of `shown`."""
    longest = min(len(shown), len(rows))
    return next((n for n in range(longest, 0, -1) if shown[-n:] == rows[:n]), 0)


def _rows(text: str) -> tuple[str, ...]:
    plain = _OVERRIDE.sub("", _TAG.sub(_untagged, text[:_MAX_STYLED]))
    plain = _ENTITY.sub(lambda found: _ENTITIES[found[0]], plain)
    rows = (" ".join(_visible(row).split()) for row in plain.splitlines())
    return tuple([row[:MAX_CHARACTERS] for row in rows if row][:MAX_ROWS])


def _untagged(found: re.Match[str]) -> str:
    return "\n" if found[0][:3].lower() == "<br" else ""


def _visible(row: str) -> str:
    """Without controls and lone surrogates (no text at all to a tokenizer)."""
    if row.isascii() and row.isprintable():
        return row
    return "".join(
        " " if unicodedata.category(one) == "Cc" else one
        for one in row
        if one not in _INVISIBLE and unicodedata.category(one) != "Cs"
    )


def without_styling(text: str) -> str:
    r"""The words of an ASS or SSA event, without override blocks and drawings.

    >>> without_styling(r"{\an8\i1}Good{\i0} day,\NSir{\p1}m 0 0 l 9 9{\p0}")
    'Good day,\nSir'
    """
    words: list[str] = []
    drawing = False
    # The pieces are, in turn, what is outside of braces and what is inside.
    for at, piece in enumerate(_ASS_BLOCK.split(text)):
        if at % 2:
            modes = _ASS_DRAWING.findall(piece)
            drawing = modes[-1].strip("0") != "" if modes else drawing
        elif not drawing:
            words.append(piece)
    return _ASS_BREAK.sub("\n", "".join(words)).replace(r"\h", " ")


def packed(cues: Iterable[Cue]) -> bytes:
    """Cues as bytes, for `unpacked` in another process."""
    plain = [[float(start), float(end), text] for start, end, text in cues]
    return json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")


def unpacked(data: bytes) -> list[Cue]:
    """What `packed` made. Raises ValueError for anything else: the sender may not be trusted."""
    try:
        cues = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(cues, list):
        raise ValueError("no list of cues")
    return [_cue(item) for item in cues]


def _cue(item: object) -> Cue:
    match item:
        case [float() as start, float() as end, str() as text]:
            return start, end, text
        case _:
            raise ValueError("a cue is a start, an end and a text")
