"""What workers tell the driver: small frozen facts that travel through a pipe or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenreduce.batch.rows import Failure, SteppedDown
from tokenreduce.events import Part


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its model. device: such as cuda:0; host: None if it is the driver's;
    told: what the user should know of this model on this device."""

    worker: str
    device: str
    seconds: float
    host: str | None = None
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Working:
    """Of a task, this part goes on now; total: its steps, or None. Also a sign of life."""

    worker: str
    task: int
    part: Part
    done: int = 0
    total: int | None = None


@dataclass(frozen=True)
class Warning:
    """Something the user should know about a task's file."""

    worker: str
    task: int
    message: str


@dataclass(frozen=True)
class Replied:
    """One row of a task as it ended: an answer, or a failure. started: see `rows.now`; unread: the
    file is gone, or no longer what was digested, so a failure says nothing about that content."""

    worker: str
    task: int
    id: str
    started: str
    answer: dict[str, Any] | None = None
    failure: Failure | None = None
    stepped_down: SteppedDown | None = None
    trace: str | None = None
    unread: bool = False


@dataclass(frozen=True)
class Done:
    """All rows of a task have been told."""

    worker: str
    task: int


@dataclass(frozen=True)
class Died:
    """A worker is gone, with whatever it had in hand. reason: one line.

    refused: it could not load its model, and no other would: the error's type
    """

    worker: str
    reason: str
    refused: str | None = None


Message = Ready | Working | Warning | Replied | Done | Died
