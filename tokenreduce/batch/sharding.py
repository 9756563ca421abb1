"""Which machine asks about which file; knows nothing but the files' names."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from tokenreduce.errors import SettingError
from tokenreduce.strict import shortened

MOST_SHARDS = 1_000_000

_WRITTEN = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")


@dataclass(frozen=True)
class Shard:
    """One part of `of` parts. number: 1 to `of`; of: 1 to MOST_SHARDS."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From such as 2/8, the second of eight. Raises SettingError for anything else."""
        found = _WRITTEN.fullmatch(text.strip())
        number, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= of <= MOST_SHARDS:
            raise SettingError(
                f"the shard is {shortened(text)}; it must be i/n with i from 1 to n, such as 2/8 "
                f"for the second of eight, and n at most {MOST_SHARDS:,}"
            )
        return cls(number, of)

    def takes(self, name: str) -> bool:
        """Whether the file of that name belongs to this part: exactly one part of `of` takes it.

        name: relative to the folder that was given, its parts joined by /, so that all machines
        agree wherever the folder is mounted.
        """
        told = hashlib.blake2b(os.fsencode(name), digest_size=8, person=b"tokenreduce part")
        return int.from_bytes(told.digest(), "little") % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
