"""A worker in a Ray cluster: the same desk as a worker process has, asked over the network.

Ray makes one object of `RayWorker` in a process of its own, on whichever node has room, and calls
its methods in threads. Tasks are pushed to it; what it has to tell is fetched, a few messages at a
time. Knows neither the ledger nor other workers.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import socket
import threading
from contextlib import suppress
from dataclasses import replace

import tokenreduce
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.messages import Died, Done, Message, Replied
from tokenreduce.batch.ray_orders import Slot, Terms, Where
from tokenreduce.batch.rows import Failure, now
from tokenreduce.cache.digest import FileState, of_file
from tokenreduce.video.inputs import shown

_MOST = 256
"""Messages that are fetched together."""
_ENVIRON = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_SHARED = (
    "all nodes of a cluster must have the videos under the same names, on a shared file system"
)


class QueueInbox:
    """Tasks as they are put in. Satisfies `desk.Inbox`."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def put(self, task: Task) -> None:
        self._tasks.put(task)

    def stop(self) -> None:
        """The row in hand is the last."""
        self._stopping.set()
        self._tasks.put(None)

    def get(self, *, block: bool) -> Task | None:
        try:
            return self._tasks.get(block=block)
        except queue.Empty:
            return None


class RayWorker:
    """Loads its model and works from when it is made; the process ends when Ray is told to."""

    def __init__(self, slot: Slot, terms: Terms) -> None:
        faulthandler.enable()
        self._slot = slot
        self._inbox = QueueInbox()
        self._told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(terms,), daemon=True).start()

    def where(self) -> Where:
        """Which node this is."""
        import ray

        gpus = tuple(str(one) for one in ray.get_gpu_ids())
        host = socket.gethostname()
        return Where(ray.util.get_node_ip_address(), host, tokenreduce.__version__, gpus)

    def take(self, seconds: float) -> list[Message]:
        """What there is to tell, oldest first; waits so long for the first. The last is Died."""
        found: list[Message] = []
        with suppress(queue.Empty):
            found.append(self._told.get(timeout=seconds))
            while len(found) < _MOST:
                found.append(self._told.get_nowait())
        return found

    def give(self, task: Task) -> None:
        here = as_seen_here(task)
        if here is not None:
            self._inbox.put(here)
            return
        reason = f"{shown(task.path)}: node {socket.gethostname()} cannot see it; {_SHARED}"
        for wanted in task.wanted:
            failure = Failure("InputError", reason)
            self._told.put(Replied(self._slot.name, task.number, wanted.id, now(), failure=failure))
        self._told.put(Done(self._slot.name, task.number))

    def stop(self) -> None:
        self._inbox.stop()

    def _work(self, terms: Terms) -> None:
        name = self._slot.name
        try:
            _settle(terms)
            if terms.witness is not None and not os.path.exists(terms.witness):
                unseen = f"{shown(terms.witness)} on node {socket.gethostname()}"
                self._told.put(Died(name, f"cannot see {unseen}; {_SHARED}", "InputError"))
                return
            # Only now: torch reads the environment when it is imported.
            from tokenreduce.batch.worker import Setup, serve

            recipe = pickle.loads(terms.recipe).on(self._slot.device)
            refused = False

            def tell(message: Message) -> None:
                nonlocal refused
                refused = refused or isinstance(message, Died)
                self._told.put(message)

            serve(Setup(name, recipe, self._slot.threads), self._inbox, tell)
            if not refused:
                self._told.put(Died(name, "ended as it was told to"))
        except BaseException as error:  # else nobody would hear that this thread ended
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._told.put(Died(name, f"ended unexpectedly: {reason[:300]}"))


def as_seen_here(task: Task) -> Task | None:
    """The task with its file's state as this machine's file system tells it; None if the file is
    not to be seen.

    Two machines number the same mount differently, and some file systems number files so, too. What
    was digested elsewhere is the same file here if it has the same number, size and times, or else
    the same content.
    """
    digest = task.digest
    try:
        state = FileState.of(os.stat(task.path))
    except OSError:
        return None
    if replace(state, device=digest.state.device) == digest.state:
        return replace(task, digest=replace(digest, state=state))
    found = of_file(task.path)
    if found is None or found.value != digest.value:
        return task  # it has changed, and will be found to
    return replace(task, digest=found)


def _settle(terms: Terms) -> None:
    """Relative names and models are looked up where the driver would."""
    for name, value in (*terms.environ.items(), *_ENVIRON.items()):
        os.environ.setdefault(name, value)
    if terms.folder is not None:
        with suppress(OSError):  # then only whole names are of use, and a file's own row says so
            os.chdir(terms.folder)
