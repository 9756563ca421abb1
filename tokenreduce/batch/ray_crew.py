"""The actors of a run in a Ray cluster: hired, given tasks, listened to, ended. Knows no ledger.

Satisfies `pool.Pool`. Ray restarts nothing by itself and repeats no call: a worker that dies is
reported, and the driver decides, as it does for processes.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import tokenreduce
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.messages import Died, Message, Ready
from tokenreduce.batch.ray_actor import RayWorker
from tokenreduce.batch.ray_orders import Slot, Terms, Where

PLACE_SECONDS = 300.0
"""For Ray to find room for an actor: a busy GPU may become free, a new node may come."""
POLL_SECONDS = 10.0
"""An actor is asked again at least so often what there is to tell."""
_GROUPS = {"orders": 1, "news": 1}
"""Threads of an actor by what they do: orders keep their order, and none waits for the news."""

_ENDINGS = (
    ("node has died", "was lost with its node"),
    ("low on memory", "was ended by Ray, for its node ran low on memory"),
    ("ray.kill", "was ended by somebody with ray.kill"),
    ("unavailable", "was out of reach"),
    (
        "Worker exit type",
        "ended without a word: it crashed or was killed, perhaps for lack of memory",
    ),
)
"""What Ray says of an actor's end, and what that means; the first that fits."""


@dataclass
class _Life:
    """An actor. asked: the call that is out, first where it is, then what it has to tell."""

    slot: Slot
    actor: Any
    asked: Any
    since: float
    where: Where | None = None


class Crew:
    """One actor in each slot that is started. ray: the module, connected, or what stands for it."""

    def __init__(
        self,
        ray: Any,
        slots: Sequence[Slot],
        terms: Terms,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ray = ray
        self._slots = {slot.name: slot for slot in slots}
        self._terms = terms
        self._clock = clock
        self._sleep = sleep
        self._lives: dict[str, _Life] = {}
        self._told: deque[Message] = deque()

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._slots)

    @property
    def gpus(self) -> float:
        """That all of them want."""
        return round(sum(slot.gpus for slot in self._slots.values()), 2)

    def start(self, worker: str) -> None:
        self._end(worker)
        slot = self._slots[worker]
        actor = self._hired(slot)
        self._lives[worker] = _Life(slot, actor, actor.where.remote(), self._clock())

    def give(self, worker: str, task: Task) -> None:
        life = self._lives.get(worker)
        if life is not None:
            life.actor.give.options(concurrency_group="orders").remote(task)

    def stop(self, worker: str) -> None:
        life = self._lives.get(worker)
        if life is not None:
            life.actor.stop.options(concurrency_group="orders").remote()

    def kill(self, worker: str, reason: str) -> None:
        """What it had told by now is heard before."""
        life = self._lives.get(worker)
        if life is not None and self._ray.wait([life.asked], timeout=0)[0]:
            self._hear(worker, life)
        if worker in self._lives:
            self._lost(worker, reason)

    def next(self, timeout_seconds: float) -> Message | None:
        end = self._clock() + timeout_seconds
        while not self._told and self._listen(max(0.0, end - self._clock())):
            pass  # what came was not for the driver
        return self._told.popleft() if self._told else None

    def close(self) -> None:
        for worker in tuple(self._lives):
            self._end(worker)

    def _hired(self, slot: Slot) -> Any:
        # Soft: were the node lost, another one with room would do.
        near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        return (
            self._ray.remote(concurrency_groups=_GROUPS)(RayWorker)
            .options(
                num_cpus=slot.cpus,
                num_gpus=slot.gpus,
                scheduling_strategy=near(slot.node, soft=True),
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(slot, self._terms)
        )

    def _listen(self, timeout_seconds: float) -> bool:
        """Whether anything came."""
        by_call = {life.asked: worker for worker, life in self._lives.items()}
        if not by_call:
            self._sleep(timeout_seconds)
            return False
        ready, _ = self._ray.wait(list(by_call), num_returns=1, timeout=timeout_seconds)
        for call in ready:
            self._hear(by_call[call], self._lives[by_call[call]])
        for worker, life in tuple(self._lives.items()):
            if life.where is None and self._clock() - life.since > PLACE_SECONDS:
                self._lost(worker, f"found no room in the Ray cluster within {PLACE_SECONDS:g} s")
        return bool(ready)

    def _hear(self, worker: str, life: _Life) -> None:
        """Takes what a call brought, and asks again."""
        try:
            brought = self._ray.get(life.asked)
        except self._ray.exceptions.RayError as error:
            self._lost(worker, how(error))
            return
        if isinstance(brought, Where):
            life.where = brought
            if brought.version != tokenreduce.__version__:
                self._lost(worker, _other_version(brought), "SettingError")
                return
        else:
            for message in brought:
                self._told.append(_placed(message, life))
                if isinstance(message, Died):
                    self._end(worker)
                    return
        life.asked = life.actor.take.options(concurrency_group="news").remote(POLL_SECONDS)

    def _lost(self, worker: str, reason: str, refused: str | None = None) -> None:
        self._end(worker)
        self._told.append(Died(worker, reason, refused))

    def _end(self, worker: str) -> None:
        life = self._lives.pop(worker, None)
        if life is not None:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(life.actor, no_restart=True)


def how(error: Exception) -> str:
    """Of Ray's many lines the one thing that a user can use, to follow "the worker"."""
    text = str(error)
    if "creation task" in text or "RuntimeEnv" in type(error).__name__:
        return f"could not start: {_last_line(text)}"
    known = next((said for sign, said in _ENDINGS if sign in text), None)
    return known or f"was lost: {_last_line(text)}"


def _last_line(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return (lines or ["Ray gives no reason"])[-1][:300]


def _placed(message: Message, life: _Life) -> Message:
    """Ready tells the machine, too, for it need not be the one that the slot is named after."""
    where = life.where
    if not isinstance(message, Ready) or where is None:
        return message
    device = f"cuda:{where.gpus[0]}" if where.gpus else message.device
    if where.ip != life.slot.ip:
        device = f"{where.ip}/{device}"
    return replace(message, device=device, host=where.host)


def _other_version(where: Where) -> str:
    return (
        f"has tokenreduce {where.version} on node {where.host}, and the driver has "
        f"{tokenreduce.__version__}: install the same everywhere"
    )
