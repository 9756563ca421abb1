"""What one look found, and what is looked at; imports nothing that could be broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Asked:
    """With what a question would be asked: the settings of these names. offline: the hub's client
    is set to ask no network."""

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "auto"
    offline: bool = False


@dataclass(frozen=True)
class Finding:
    """One line. state: a problem keeps questions from being answered, a warning does not.

    text: what was found and, where it is not ok, what to do. device: it is about the device or its
    memory.
    """

    name: str
    state: State
    text: str
    device: bool = False


Look = Callable[[Asked], Iterable[Finding]]


def of_error(name: str, error: BaseException, *, device: bool = False) -> Finding:
    """A problem that was raised, in one line."""
    text = next((one.strip() for one in str(error).splitlines() if one.strip()), "")
    kind = "" if type(error).__module__.startswith("tokenreduce.") else type(error).__name__
    return Finding(name, "problem", ": ".join(filter(None, (kind, text[:300]))), device)


def size(count: float) -> str:
    """
    >>> size(6.5 * 2**30), size(9e6)
    ('6.5 GiB', '9 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
