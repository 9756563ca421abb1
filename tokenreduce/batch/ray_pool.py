"""The workers of a Ray cluster, one for each GPU of it; knows no ledger, and holds no Ray.

What talks to Ray is a process of its own (`ray_agent`): this one starts it, tells it what to do and
hears from it what the workers have to say. The driver notices no difference to processes.
"""

from __future__ import annotations

import os
import pickle
import queue
import re
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import tokenreduce
from tokenreduce.batch.child import Child
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.messages import Message
from tokenreduce.batch.ray_orders import (
    Give,
    Join,
    Joined,
    Kill,
    Order,
    Refused,
    Start,
    Stop,
    Terms,
)
from tokenreduce.errors import CapacityError, SettingError

if TYPE_CHECKING:  # the driver's process needs no torch
    from tokenreduce.batch.recipe import Recipe

JOIN_SECONDS = 120.0
"""For Ray to be imported, and to connect or, of its own, to start."""
LEAVE_SECONDS = 30.0
"""For actors to be ended and the connection to be closed."""
_MODELS = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TOKENREDUCE_MODELS")
"""Variables that say where models lie. No secret is among them: Ray sends them in the clear."""
_ENVIRON = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a Ray that is started here tells nobody that it was
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # each machine has its own installation
}


class RayPool:
    """Satisfies `pool.Pool`. Made by `join`; whoever makes one must `close` it."""

    def __init__(self, agent: Child, join_seconds: float) -> None:
        self._agent = agent
        self._told: queue.SimpleQueue[Message | Joined | Refused | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        joined = self._joined(join_seconds)
        self._workers = joined.workers
        self.note = joined.note

    @classmethod
    def join(
        cls, address: str, recipe: Recipe, workers: int | None, witness: str | None
    ) -> RayPool:
        """Joins a cluster; no worker is started yet.

        address  host:port, `ray_orders.AUTO` or `ray_orders.LOCAL`
        workers  how many; None: one for each GPU
        witness  one of the videos, that a node without them is found out before it is given any
        Raises SettingError where Ray is not installed or the device makes no sense, CapacityError
        where the cluster cannot be reached or has no room.
        """
        if find_spec("ray") is None:
            raise SettingError(
                "--cluster needs Ray, which is not installed: pip install 'tokenreduce[ray]'"
            )
        environ = {name: os.environ[name] for name in _MODELS if name in os.environ}
        terms = Terms(pickle.dumps(recipe), tokenreduce.__version__, _here(), environ, witness)
        agent = Child("tokenreduce.batch.ray_agent", _ENVIRON)
        try:
            agent.send(Join(address, recipe.placing.device, workers, terms))
            return cls(agent, JOIN_SECONDS)
        except BaseException:
            agent.close()
            raise

    @property
    def workers(self) -> tuple[str, ...]:
        return self._workers

    def start(self, worker: str) -> None:
        self._order(Start(worker))

    def give(self, worker: str, task: Task) -> None:
        self._order(Give(worker, task))

    def stop(self, worker: str) -> None:
        self._order(Stop(worker))

    def kill(self, worker: str, reason: str) -> None:
        self._order(Kill(worker, reason))

    def next(self, timeout_seconds: float) -> Message | None:
        """Raises CapacityError if the connection to the cluster is lost: what is not recorded by
        then is asked by the next run."""
        try:
            told = self._told.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if told is None:
            raise CapacityError(
                "the connection to the Ray cluster is lost, perhaps with its head node: it "
                f"{_brief(self._agent.ending())}; run again to go on"
            )
        if isinstance(told, (Joined, Refused)):
            raise TypeError(told)  # only ever the first
        return told

    def close(self) -> None:
        self._agent.close(LEAVE_SECONDS)

    def _order(self, order: Order) -> None:
        self._agent.send(order)

    def _joined(self, seconds: float) -> Joined:
        try:
            told = self._told.get(timeout=seconds)
        except queue.Empty:
            raise CapacityError(
                f"the Ray cluster did not answer within {seconds:g} s; 'ray status' tells more"
            ) from None
        match told:
            case Joined():
                return told
            case Refused("SettingError", reason):
                raise SettingError(reason)
            case Refused(_, reason):
                raise CapacityError(reason)
        raise CapacityError(f"the connection to the Ray cluster {_brief(self._agent.ending())}")

    def _listen(self) -> None:
        """In a thread of its own, until the agent's pipe ends."""
        with suppress(EOFError, OSError, ValueError):
            while True:
                self._told.put(self._agent.receive())
        self._told.put(None)


def _brief(ending: str) -> str:
    """Without where in Ray's source it was printed, and with its first sentence alone."""
    plain = re.sub(r"\[[0-9-]+ [^\]]*\] (?:\S+:\d+: )?", "", ending)
    return plain.split(". ")[0]


def _here() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None
