"""What a batch tells whoever watches it; knows nothing about who that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenreduce.batch.rows import Row
from tokenreduce.events import Part


@dataclass(frozen=True)
class Planned:
    """What there is to do. files and rows: of all that was named; workers: their names."""

    files: int
    rows: int
    workers: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """These rows of a file were there already. failed: so many of them as failures."""

    file: str
    rows: int
    failed: int = 0


@dataclass(frozen=True)
class WorkerReady:
    worker: str
    device: str
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A worker is at this part of a file."""

    worker: str
    file: str
    part: Part
    done: int = 0
    total: int | None = None


@dataclass(frozen=True)
class Recorded:
    """A row is in the ledger: it will not be lost."""

    row: Row


@dataclass(frozen=True)
class FileDone:
    """All rows of a file are recorded."""

    worker: str
    file: str


@dataclass(frozen=True)
class Trouble:
    """Something the user should know: a warning about a file, a worker that died, a retry."""

    message: str
    file: str | None = None
    worker: str | None = None


Happening = Planned | Known | WorkerReady | Stage | Recorded | FileDone | Trouble
BatchWatcher = Callable[[Happening], None]


def ignore(happening: Happening) -> None:
    """Watches nothing."""
