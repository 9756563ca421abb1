"""What a ledger says of its rows without reading them; knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tokenreduce.batch.rows import Status


@dataclass(frozen=True)
class Settings:
    """What rows were asked with. facts: what makes the digest, for people; given: the options as
    they were last given; first_used: see `rows.now`."""

    digest: str
    facts: Mapping[str, str]
    given: Mapping[str, str]
    first_used: str


class Stand(NamedTuple):
    """What is known of a row before it is read. key: of the question and content it is about, which
    may be others than those its id stands for now."""

    status: Status
    attempts: int
    key: str


@dataclass(frozen=True)
class Counts:
    """Rows. failures: by kind, the most frequent first."""

    answered: int
    failed: int
    failures: Mapping[str, int]

    @property
    def rows(self) -> int:
        return self.answered + self.failed
