"""Moments of a video as people write them: 10:00, 90, 1h02m, 25%. Knows no video and no option.

A moment is settled only once the video's length is known, so `Moment` keeps what was written.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from tokenreduce.errors import InputError, SettingError

ALLOWED = "a time such as 90, 90.5s, 1.5m, 1h02m, 10:00, 1:02:03.5 or 25%"
"""Completes the sentence 'it must be ...'."""

GRACE_SECONDS = 1.0
"""How far past the end a range may end and still mean the end: players round lengths."""

# Nine digits are 31 years; more would only lose the digits after the point.
_AMOUNT = r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})"
_SHARE = re.compile(_AMOUNT + r" ?%", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,9}):(?=\d\d:))?(\d{1,9}):(\d\d(?:\.\d{0,9})?)", re.ASCII)
_UNITS = re.compile(
    rf"(?=.)(?:{_AMOUNT} ?h ?)?(?:{_AMOUNT} ?m(?:in)? ?)?(?:{_AMOUNT} ?s?)?", re.ASCII
)


@dataclass(frozen=True)
class Moment:
    """A point of a video: `value` seconds after its first frame, or that share of its length.

    value    seconds, 0 or more; of_length: a share from 0 to 1
    written  as the user wrote it
    """

    value: float
    of_length: bool = False
    written: str = field(default="", compare=False)

    def at(self, duration_seconds: float) -> float:
        """Seconds after the first frame, of a video that lasts `duration_seconds`."""
        return self.value * duration_seconds if self.of_length else self.value

    def __str__(self) -> str:
        return self.written or (f"{self.value:.6%}" if self.of_length else f"{self.value:g} s")


def parse(written: Moment | str | float) -> Moment:
    """The moment that is meant; one that is parsed already is itself.

    Raises SettingError if it cannot be told.

    A bare number is seconds. hh:mm:ss and mm:ss take a fraction of a second; only the first part
    may be 60 or more, or have one digit. With units the largest comes first: 1h02m, 90s, 1.5m.

    >>> parse("10:00").at(3600), parse("1h02m").at(9999), parse("25%").at(60)
    (600.0, 3720.0, 15.0)
    """
    if isinstance(written, Moment):
        return written
    text = str(written).strip()
    quoted = repr(text if len(text) <= 40 else text[:40] + "...")
    positive = text.lower().removeprefix("-")
    share = _SHARE.fullmatch(positive)
    value = _seconds(positive) if share is None else float(share[1]) / 100
    if value is None:
        raise SettingError(f"{quoted} is no time; it must be {ALLOWED}")
    if positive != text.lower():
        raise SettingError(f"{quoted} is before the start; a time can be 0 or more")
    if share is not None and value > 1:
        raise SettingError(f"{quoted} is past the end; a share can be 0% to 100%")
    return Moment(value, of_length=share is not None, written=text)


def _seconds(text: str) -> float | None:
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        if seconds >= 60 or (clock[1] is not None and minutes >= 60):
            return None
        return hours * 3600 + minutes * 60 + seconds
    units = _UNITS.fullmatch(text)
    if units is None:
        return _plain(text)
    hours, minutes, seconds = (float(part or 0) for part in units.groups())
    return hours * 3600 + minutes * 60 + seconds


def _plain(text: str) -> float | None:
    """A float as Python prints it (1e-05), where none of the forms for people fits."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 and not text.startswith("-") else None


def span(
    start: Moment | str | float | None,
    end: Moment | str | float | None,
    duration_seconds: float,
    name: str,
) -> tuple[float, float | None]:
    """The range in seconds after the first frame; an end of None is the end of the video.

    start, end        None: not given
    duration_seconds  of the video, as its probe measured it
    name              of the file, for messages

    Raises SettingError for what is no time and for a start not before the end, InputError for a
    range that reaches past the end of the file (an end by more than GRACE_SECONDS).
    """
    first = None if start is None else parse(start)
    last = None if end is None else parse(end)
    begin = 0.0 if first is None else first.at(duration_seconds)
    stop = None if last is None else last.at(duration_seconds)
    if stop is not None and begin >= stop:
        begun = "0 s" if first is None else str(first)
        raise SettingError(f"start {begun} is not before end {last}; give an end after the start")
    if begin > 0 and begin >= duration_seconds:
        raise InputError(
            f"{name}: lasts {duration_seconds:.2f} s, so nothing starts at {first}; give an "
            "earlier start"
        )
    if stop is not None and stop > duration_seconds + GRACE_SECONDS:
        raise InputError(
            f"{name}: lasts {duration_seconds:.2f} s, so it has no {last}; give an earlier end, "
            "or none"
        )
    return begin, None if stop is None else min(stop, duration_seconds)
