"""What a pool, its agent and its actors in a Ray cluster tell each other, beyond `messages`.

Plain frozen facts, importable without Ray and without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tokenreduce.batch.jobs import Task

LOCAL = "local"
"""In place of an address: a Ray that is started here for this run alone."""
AUTO = "auto"
"""In place of an address: the cluster that this machine belongs to."""


@dataclass(frozen=True)
class Slot:
    """Room for one worker. name: such as 10.0.0.2/cuda:1.

    node     Ray's id of the node; another takes its place if that one is lost
    ip       of that node
    device   what the worker is to load its model on, "cuda" or "cpu": Ray shows it its own GPU only
    cpus, gpus  what Ray sets aside for it, in parts of one where several share
    threads  of the CPU that it may use
    """

    name: str
    node: str
    ip: str
    device: str
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True)
class Terms:
    """What every actor of a run is told.

    recipe   pickled, for only an actor can afford to import what it refers to
    version  of this package; an actor of another one would misunderstand
    folder   the driver's working directory, for relative names; None if it is gone
    environ  variables that say where models lie, for nodes where they are not set
    witness  a file that the driver sees, to find out at once whether a node sees the same; or None
    """

    recipe: bytes
    version: str
    folder: str | None
    environ: Mapping[str, str]
    witness: str | None


@dataclass(frozen=True)
class Where:
    """What an actor says of itself once it runs. gpus: Ray's numbers of those it was given."""

    ip: str
    host: str
    version: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Join:
    """The first thing an agent is told. address: LOCAL, AUTO or host:port; device: as the setting
    says; workers: how many, None for one on each GPU."""

    address: str
    device: str
    workers: int | None
    terms: Terms


@dataclass(frozen=True)
class Joined:
    """The agent's answer. note: what the user should know, or nothing."""

    workers: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Refused:
    """The agent's answer if there is nobody to work. kind: of the TokenReduceError."""

    kind: Literal["CapacityError", "SettingError"]
    reason: str


@dataclass(frozen=True)
class Start:
    worker: str


@dataclass(frozen=True)
class Give:
    worker: str
    task: Task


@dataclass(frozen=True)
class Stop:
    worker: str


@dataclass(frozen=True)
class Kill:
    worker: str
    reason: str


Order = Start | Give | Stop | Kill
