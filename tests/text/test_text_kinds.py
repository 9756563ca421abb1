"""What the new options can be, as text and as a TOML value."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from tokenreduce.moments import Moment

kinds = import_module("tokenreduce.cli.kinds")
FPS = kinds.Rate("frames a second", 1000)
SKIP = kinds.WordOrNumber(("auto", "off"), kinds.Number(0, 255))
TIME = kinds.Time()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (FPS, "1", 1.0),
        (FPS, "0.1", 0.1),
        (FPS, "1000", 1000.0),
        (SKIP, "auto", "auto"),
        (SKIP, "12.5", 12.5),
        (TIME, "10:00", Moment(600)),
        (TIME, "25%", Moment(0.25, of_length=True)),
    ],
)
def test_text_is_read(kind: Any, text: str, value: object) -> None:
    assert kind.read(text, typed=False) == value


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (FPS, 2, 2.0),
        (SKIP, 3, 3.0),
        (SKIP, "off", "off"),
        (TIME, 90, Moment(90)),
        (TIME, "1:30", Moment(90)),
    ],
)
def test_a_toml_value_is_read(kind: Any, value: object, read: object) -> None:
    assert kind.read(value, typed=True) == read


@pytest.mark.parametrize(
    ("kind", "value"),
    [(FPS, bad) for bad in ("0", "-1", "nan", "inf", "1001", "x", "", True, None)]
    + [(SKIP, bad) for bad in ("on", "-1", "256", "nan", True, None)]
    + [(TIME, bad) for bad in ("-1", "101%", "nan", "", True, None, [1])],
)
@pytest.mark.parametrize("typed", [False, True])
def test_anything_else_is_refused(kind: Any, value: object, typed: bool) -> None:
    with pytest.raises(ValueError):
        kind.read(value, typed=typed)


def test_what_is_allowed_completes_a_sentence() -> None:
    assert FPS.allowed == "frames a second, above 0 and at most 1000"
    assert SKIP.allowed == "auto, off or a number from 0 to 255"
    assert TIME.allowed.startswith("a time such as 90, 90.5s,")
