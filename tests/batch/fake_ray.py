"""What a crew uses of Ray, in one process: actors are objects that a test moves on.

An actor does what `behave` says of each file: "ok" answers, "die" ends the process, "slow" says
nothing. Read with runpy, for tests import nothing from each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import tokenreduce
from tokenreduce.batch import messages as m
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.ray_orders import Slot, Where
from tokenreduce.batch.rows import now

CRASH = "...\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"


class RayError(Exception):
    """As ray.exceptions.RayError."""


@dataclass(eq=False)
class Call:
    """An object reference: of what an actor was asked."""

    actor: Actor
    name: str


@dataclass(eq=False)
class Actor:
    ray: FakeRay
    slot: Slot
    options: dict[str, Any]
    placed: bool = True
    told: list[m.Message] = field(default_factory=list)
    dead: str | None = None
    asked: int = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Call:
            if self.dead is None and name in ("give", "stop"):
                getattr(self, f"_{name}")(*arguments)
            self.asked += name == "take"
            return Call(self, name)

        def options(*, concurrency_group: str) -> Any:
            assert concurrency_group in self.options["concurrency_groups"]
            return SimpleNamespace(remote=call)

        return SimpleNamespace(remote=call, options=options)

    def die(self, reason: str = CRASH) -> None:
        self.dead, self.told = reason, []

    def _stop(self) -> None:
        self.told.append(m.Died(self.slot.name, "ended as it was told to"))

    def _give(self, task: Task) -> None:
        name, number = self.slot.name, task.number
        self.told.append(m.Working(name, number, "decode"))
        does = self.ray.behave(os.path.basename(task.path))
        if does == "die":
            self.dead = CRASH  # it had told that it began
        elif does == "ok":
            for wanted in task.wanted:
                answer = {"question": wanted.question, "answer": "yes"}
                self.told.append(m.Replied(name, number, wanted.id, now(), answer))
            self.told.append(m.Done(name, number))


class FakeRay:
    """In place of the module `ray`. ip: of the node that actors are made on, None where the slot
    says; version: of tokenreduce there."""

    def __init__(self, behave: Callable[[str], str] | None = None) -> None:
        self.behave = behave or (lambda _: "ok")
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []
        self.placed = True
        self.free_gpus = 2.0
        self.ip: str | None = None
        self.version = tokenreduce.__version__
        self.exceptions = SimpleNamespace(RayError=RayError)
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft))
        self.util = SimpleNamespace(scheduling_strategies=strategies)

    def nodes(self) -> list[dict[str, Any]]:
        """One that is there, one that is gone."""
        told = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Alive": True}
        here = {**told, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}}
        return [here, {**told, "NodeID": "b", "Alive": False, "Resources": {"GPU": 8.0}}]

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, "GPU": self.free_gpus}

    def remote(self, **groups: Any) -> Any:
        def of(cls: type) -> Any:
            def options(**more: Any) -> Any:
                def made(slot: Slot, terms: Any) -> Actor:
                    actor = Actor(self, slot, {**groups, **more}, self.placed)
                    actor.told.append(m.Ready(slot.name, "cuda:0", 1.0))
                    self.actors.append(actor)
                    return actor

                return SimpleNamespace(remote=made)

            return SimpleNamespace(options=options)

        return of

    def wait(
        self, calls: Sequence[Call], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Call], list[Call]]:
        ready = [call for call in calls if self._ready(call)][:num_returns]
        return ready, [call for call in calls if call not in ready]

    def get(self, call: Call) -> Any:
        assert self._ready(call), "this would wait for ever"
        actor = call.actor
        if call.name == "where":
            ip = self.ip or actor.slot.ip
            return Where(ip, f"host of {ip}", self.version, ("3",) if actor.slot.gpus else ())
        told, actor.told = actor.told, []
        if not told and actor.dead is not None:
            raise RayError(actor.dead)
        return told

    def kill(self, actor: Actor, no_restart: bool) -> None:
        assert no_restart
        actor.die("The actor is dead because it was killed by `ray.kill`.")
        self.killed.append(actor)

    def _ready(self, call: Call) -> bool:
        actor = call.actor
        if call.name == "where":
            return actor.placed
        return bool(actor.told) or actor.dead is not None
