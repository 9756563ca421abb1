"""What a batch tells whoever watches it; knows nothing about who that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
class WorkerGone:
    """It died or was ended, with whatever it had in hand; ready again if it is started again."""

    worker: str


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
    """A row is in the ledger: it will not be lost. copied: it has the answer or the failure of
    another row, which is counted with that one, and took nothing itself."""

    row: Row
    copied: bool = False


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


@dataclass(frozen=True)
class Stopping:
    """The run ends before all is asked: answers on the way are waited for."""

    why: Literal["interrupted", "failures"]


Happening = (
    Planned | Known | WorkerReady | WorkerGone | Stage | Recorded | FileDone | Trouble | Stopping
)
BatchWatcher = Callable[[Happening], None]


def ignore(happening: Happening) -> None:
    """Watches nothing."""
