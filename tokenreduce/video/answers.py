"""What the decoding child's messages mean, to a parent that does not believe all of them.

A hostile file may have taken the child over. Whatever a message then says, it becomes a Frame, a
Repeat, an End, a Probe or an error of this program, and nothing else gets further.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from math import isfinite
from typing import Any

import numpy as np

from tokenreduce.errors import CapacityError, InputError, SettingError
from tokenreduce.video.inputs import shown
from tokenreduce.video.process import Died
from tokenreduce.video.types import End, Frame, Probe, Repeat

Header = Mapping[str, Any]


def accepted(header: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header if the order was carried out, else the error it stands for."""
    if header.get("is") == "refused":
        kind = SettingError if header.get("error") == "SettingError" else InputError
        message = " ".join(str(header.get("message")).split())
        raise kind(f"{shown(path)}: {message}")
    if header.get("is") == "bug":
        raise RuntimeError(f"the decoding process failed on {shown(path)}:\n{header.get('trace')}")
    return header


def item_of(header: Header, payload: bytes, size: int) -> Frame | Repeat:
    """One sampled frame. Raises Died, as all below, where the message makes no sense."""
    with _sense():
        seconds = _float(header["seconds"])
        if header["is"] == "repeat":
            return Repeat(seconds)
        return Frame(seconds, np.frombuffer(payload, np.uint8).reshape(size, size, 3))


def end_of(header: Header) -> End:
    with _sense():
        wanted, reached = int(header["wanted"]), _float(header["reached_seconds"])
        return End(wanted, bool(header["complete"]), reached)


def probe_of(header: Header) -> Probe:
    with _sense():
        return Probe(**{field.name: _KINDS[field.type](header[field.name]) for field in _PROBE})


def died_on(path: str | os.PathLike[str], died: Died) -> InputError | CapacityError:
    """The file's fault, unless the system ended the decoder: then it is nobody's, and once more
    with less beside it may do."""
    if died.killed:
        return CapacityError(
            f"{shown(path)}: the decoder {died}; end other programs or take fewer frames, then ask "
            "again"
        )
    return InputError(
        f"{shown(path)}: the decoder {died}; the file is probably damaged: convert it, or choose "
        "another"
    )


@contextmanager
def _sense() -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, OverflowError):
        raise Died("sent what makes no sense") from None


def _float(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError(number)
    return number


_PROBE = fields(Probe)
_KINDS: Mapping[Any, Callable[[Any], Any]] = {
    "str": str,
    "float": _float,
    "int": int,
    "bool": bool,
}
