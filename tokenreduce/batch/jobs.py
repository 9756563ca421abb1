"""What is to be asked: a file with its questions. Knows not where they come from nor who asks."""

from __future__ import annotations

from dataclasses import dataclass

from tokenreduce.cache.digest import Digest


@dataclass(frozen=True)
class Asked:
    """A question of one file. id: the user's own, or None; replaces: id of a failed row that goes
    once this one is there, whatever has become of the file."""

    question: str
    id: str | None = None
    replaces: str | None = None


@dataclass(frozen=True)
class Job:
    """A file, and all that is asked of it, in order. path: bytes that are no UTF-8 as surrogates;
    missing: it was named and is not there, so its rows fail without being tried."""

    path: str
    asked: tuple[Asked, ...]
    missing: bool = False


@dataclass(frozen=True)
class Wanted:
    """One row to come. attempts: before this one."""

    id: str
    key: str
    question: str
    attempts: int = 0


@dataclass(frozen=True)
class Task:
    """A file that a worker is given, and the rows that it owes.

    number   of the task in this run; no two are the same
    digest   of the file: what a worker reads must still be that
    alone    nothing is prepared beside it: a worker died with it and another in hand
    """

    number: int
    path: str
    digest: Digest
    wanted: tuple[Wanted, ...]
    alone: bool = False
