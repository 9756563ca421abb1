"""The process that is connected to a Ray cluster, so that the driver's is not.

Ray prints where it likes, takes signals over and, when its head is lost, ends the process it is in.
Here that ends nothing but the connection. Started by `ray_pool`; ends with it, and ends its actors.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Literal

from tokenreduce.batch.child import private_pipes
from tokenreduce.batch.ray_crew import Crew
from tokenreduce.batch.ray_orders import (
    AUTO,
    LOCAL,
    Give,
    Join,
    Joined,
    Kill,
    Order,
    Refused,
    Start,
    Stop,
)
from tokenreduce.batch.ray_slots import Node, slots
from tokenreduce.batch.wire import receive, send
from tokenreduce.errors import CapacityError, SettingError

_TICK_SECONDS = 0.05
_AT_ONCE = 64  # messages, before there is a look at the orders
_REACH_SECONDS = 10.0
LEAVE_SECONDS = 20.0
"""For the actors and the connection to end once the driver is gone."""
_STORE_BYTES = 100 << 20
"""For objects of a Ray that is started here: messages are small."""


class Orders:
    """What comes through the pipe, in order; the end of it is None, and `ended` is called."""

    def __init__(self, pipe: BinaryIO, ended: Callable[[], None]) -> None:
        self._pipe = pipe
        self._ended = ended
        self._waiting: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Order | None:
        """Raises queue.Empty if there is none now."""
        return self._waiting.get_nowait()

    def _read(self) -> None:
        try:
            while True:
                self._waiting.put(receive(self._pipe))
        except (EOFError, OSError):
            self._waiting.put(None)
            self._ended()


def main() -> None:
    """Joins the cluster that it is told, hires and works until the pipe ends."""
    pipe, out = private_pipes()
    join: Join = receive(pipe)
    orders = Orders(pipe, _end_soon)
    try:
        with _connected(join) as ray:
            serve(ray, join, orders, out)
    except (CapacityError, SettingError) as error:
        send(out, refused(error))
    os._exit(0)  # whatever threads Ray has


def serve(ray: Any, join: Join, orders: Orders, out: BinaryIO) -> None:
    """Passes on orders and messages. Raises CapacityError or SettingError, see `slots`."""
    nodes = [Node.of(told) for told in ray.nodes() if told.get("Alive")]
    crew = Crew(ray, slots(nodes, join.device, join.workers), join.terms)
    send(out, Joined(crew.workers, _note(ray, crew)))
    try:
        while _obeyed(crew, orders):
            message, heard = crew.next(_TICK_SECONDS), 0
            while message is not None:
                send(out, message)
                heard += 1
                message = crew.next(0.0) if heard < _AT_ONCE else None
    except BrokenPipeError:
        pass
    finally:
        crew.close()


def _obeyed(crew: Crew, orders: Orders) -> bool:
    """All that is ordered now; whether there can be more."""
    with suppress(queue.Empty):
        while True:
            match orders.next():
                case Start(worker):
                    crew.start(worker)
                case Give(worker, task):
                    crew.give(worker, task)
                case Stop(worker):
                    crew.stop(worker)
                case Kill(worker, reason):
                    crew.kill(worker, reason)
                case None:
                    return False
    return True


def refused(error: Exception) -> Refused:
    """An error on its way to the driver."""
    kind: Literal["CapacityError", "SettingError"] = "CapacityError"
    if isinstance(error, SettingError):
        kind = "SettingError"
    return Refused(kind, str(error))


def _end_soon() -> None:
    """However Ray hangs, this process does not outlive the driver by much."""
    last = threading.Timer(LEAVE_SECONDS, os._exit, (1,))
    last.daemon = True
    last.start()


@contextmanager
def _connected(join: Join) -> Iterator[Any]:
    """Ray, connected. Raises CapacityError in one line if the cluster cannot be reached."""
    address = reached(join.address)
    options: dict[str, Any] = {"address": address}
    if address == LOCAL:
        cpus = max(os.cpu_count() or 1, join.workers or 1)
        options |= {"num_cpus": cpus, "include_dashboard": False}
        options |= {"object_store_memory": _STORE_BYTES}
        # Who can reach Ray can run anything: only those with the token, which nobody else has.
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from ray.util import scheduling_strategies  # noqa: F401  # makes it an attribute

    try:
        # Ray puts the working directory, which may hold anything, on every actor's import path.
        with contextlib.chdir("/"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # of many kinds: ConnectionError, RuntimeError, ValueError
        raise CapacityError(_unreached(join.address, error)) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def reached(address: str) -> str:
    """The address, once something there has taken a call: Ray itself would try for a minute.

    Raises CapacityError if nothing does, SettingError for an address of Ray's client.
    """
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    if "://" in address:
        raise SettingError(f"{address}: no client address will do; give HOST:PORT, without ray://")
    found = re.fullmatch(r"\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if found is None:
        return address
    try:
        with socket.create_connection((found[1], int(found[2])), _REACH_SECONDS):
            return address
    except (OSError, OverflowError, UnicodeError) as error:
        raise CapacityError(_unreached(address, error)) from None


def _unreached(address: str, error: Exception) -> str:
    if address == LOCAL:
        return f"Ray does not start: {_first_line(error)}"
    if address == AUTO:
        return (
            "this machine belongs to no Ray cluster that can be reached: start one with 'ray start "
            "--head', join one with 'ray start --address=HOST:PORT', or give --cluster local"
        )
    return (
        f"the Ray cluster at {address} cannot be joined: {_first_line(error)}; this machine must "
        f"be one of its nodes ('ray start --address={address}')"
    )


def _first_line(error: Exception) -> str:
    what = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
    return (what or type(error).__name__)[:300].rstrip(".")


def _note(ray: Any, crew: Crew) -> str:
    """Where others use the cluster, too."""
    wanted = crew.gpus
    free = float(ray.available_resources().get("GPU", 0))
    if free >= wanted:
        return ""
    return (
        f"only {free:g} of {wanted:g} GPUs are free now; the others are taken as they become free"
    )
