"""What the pipeline tells whoever watches it; knows nothing about who that is.

The pipeline calls one function with one of these, from its own thread, and never prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Part = Literal[
    "load", "download", "digest", "probe", "decode", "encode", "reduce", "prefill", "answer"
]
"""A download is a stretch of loading, counts megabytes, and tells of them from a thread of its
own."""


@dataclass(frozen=True)
class Started:
    """A part begins. total: its steps (frames, layers, tokens, MB) or None where unknown."""

    part: Part
    total: int | None = None


@dataclass(frozen=True)
class Advanced:
    """`done` of the part's steps are complete."""

    part: Part
    done: int


@dataclass(frozen=True)
class Finished:
    part: Part
    seconds: float


@dataclass(frozen=True)
class Text:
    """A piece of the answer, as it is generated."""

    piece: str


@dataclass(frozen=True)
class Setting:
    """Of several settings that are compared, the one with this number, from 1, is next."""

    label: str
    number: int
    of: int


@dataclass(frozen=True)
class Warned:
    """Something the user should know; also listed in the result's `warnings`."""

    message: str


Event = Started | Advanced | Finished | Text | Setting | Warned
Watcher = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watches nothing."""
