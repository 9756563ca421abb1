"""Sizes of memory as people write them: 12GiB, 8GB, 7.5; knows nothing of what has that size."""

from __future__ import annotations

import re

from tokenreduce.errors import SettingError

ALLOWED = "a size such as 12GiB, 8GB, 900MiB, or 12 or 12G (GiB), above 0"

_UNITS = {
    "": 2**30,  # what is written on a card
    "pib": 2**50,
    "pb": 10**15,
    "tib": 2**40,
    "tb": 10**12,
    "t": 2**40,  # a letter alone counts as a number alone does
    "gib": 2**30,
    "gb": 10**9,
    "g": 2**30,
    "mib": 2**20,
    "mb": 10**6,
    "m": 2**20,
}
_MOST = 1 << 50
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s{0,9}([A-Za-z]{0,3})", re.ASCII)


def parse(text: str | float) -> int:
    """Bytes, at least 1. A number alone counts GiB. Spaces around it and before the unit are none.

    Raises SettingError for anything else.

    >>> parse("12GiB") == parse(12) == 12 * 2**30, parse("8GB")
    (True, 8000000000)
    """
    match = _SIZE.fullmatch(str(text).strip())
    unit = None if match is None else _UNITS.get(match[2].lower())
    if match is None or unit is None or isinstance(text, bool):
        raise SettingError(f"{str(text)[:40]!r}: give {ALLOWED}")
    size = int(float(match[1]) * unit)
    if not 1 <= size <= _MOST:
        raise SettingError(f"{str(text)[:40]!r}: give {ALLOWED}, at most 1 PiB")
    return size


def shown(count: int) -> str:
    """In GiB, or MiB below a tenth of one.

    >>> shown(12 * 2**30), shown(50 * 2**20)
    ('12.0 GiB', '50 MiB')
    """
    if count >= 2**30 / 10:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB"
