"""What a setting can be, as text (flag, variable) or as a TOML value (file); knows no setting.

Every `read` takes either, returns the value and raises ValueError, saying nothing: what is allowed
is in `allowed`, and the caller knows where the value came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from tokenreduce import bytesizes, moments
from tokenreduce.errors import SettingError
from tokenreduce.strict import fraction


class Kind(Protocol):
    @property
    def allowed(self) -> str:
        """Completes the sentence 'it must be ...'."""
        ...

    def read(self, value: object, /, *, typed: bool) -> object:
        """typed: the value comes from TOML, where a number in quotes is a mistake."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number of `unit`, from low to high."""

    unit: str
    low: int
    high: int | None = None

    @property
    def allowed(self) -> str:
        upper = "" if self.high is None else f", at most {self.high:,}"
        return f"{self.unit}, at least {self.low}{upper}"

    def read(self, value: object, /, *, typed: bool) -> int:
        if not typed and isinstance(value, str) and re.fullmatch(r"-?\d{1,30}", value, re.ASCII):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError
        if value < self.low or (self.high is not None and value > self.high):
            raise ValueError
        return value


@dataclass(frozen=True)
class Number:
    """A number from low to high."""

    low: float
    high: float

    @property
    def allowed(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def read(self, value: object, /, *, typed: bool) -> float:
        if not typed and isinstance(value, str):
            value = float(value)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError
        if not self.low <= value <= self.high:  # nan is not, either
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class Rate:
    """A number above 0, up to high."""

    unit: str
    high: float

    @property
    def allowed(self) -> str:
        return f"{self.unit}, above 0 and at most {self.high:g}"

    def read(self, value: object, /, *, typed: bool) -> float:
        rate = Number(0, self.high).read(value, typed=typed)
        if not rate > 0:
            raise ValueError
        return rate


@dataclass(frozen=True)
class WordOrNumber:
    """One of a few words, or a number instead."""

    among: tuple[str, ...]
    number: Number

    @property
    def allowed(self) -> str:
        return f"{', '.join(self.among)} or {self.number.allowed}"

    def read(self, value: object, /, *, typed: bool) -> str | float:
        if isinstance(value, str) and value in self.among:
            return value
        return self.number.read(value, typed=typed)


@dataclass(frozen=True)
class Time:
    """A moment of a video, settled once its length is known."""

    allowed: str = moments.ALLOWED

    def read(self, value: object, /, *, typed: bool) -> moments.Moment:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        try:
            return moments.parse(value)
        except SettingError:
            raise ValueError from None


@dataclass(frozen=True)
class Memory:
    """How much of a device's memory: a size, or auto."""

    allowed: str = f"auto or {bytesizes.ALLOWED}"

    def read(self, value: object, /, *, typed: bool) -> str | int:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        try:
            return "auto" if value == "auto" else bytesizes.parse(value)
        except SettingError:
            raise ValueError from None


@dataclass(frozen=True)
class Share:
    """A share kept, exact: 0.25 or 1/4."""

    allowed: str = "a share kept such as 0.25 or 1/4, above 0 and at most 1"

    def read(self, value: object, /, *, typed: bool) -> Fraction:
        share = fraction(value)
        if not 0 < share <= 1:
            raise ValueError
        return share


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    among: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of: " + ", ".join(self.among)

    def read(self, value: object, /, *, typed: bool) -> str:
        if not isinstance(value, str) or value not in self.among:
            raise ValueError
        return value


@dataclass(frozen=True)
class Text:
    """A line of text that matches `pattern`, not empty."""

    allowed: str
    pattern: str = r".+"

    def read(self, value: object, /, *, typed: bool) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Switch:
    """On or off."""

    allowed: str = "true or false"

    def read(self, value: object, /, *, typed: bool) -> bool:
        if isinstance(value, bool):
            return value
        if typed or not isinstance(value, str):
            raise ValueError
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
