"""One worker's work: prepares the next files while it answers about this one, and tells of all.

The same in a process and in a cluster's actor: tasks come from an inbox, messages go to `send`.
Knows neither the ledger nor other workers.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.batch.messages import Done, Message, Replied, Warning, Working
from tokenreduce.batch.recipe import Recipe
from tokenreduce.batch.rows import Failure, SteppedDown, now
from tokenreduce.batch.stepping import smaller
from tokenreduce.cache.digest import unchanged
from tokenreduce.errors import CapacityError, InputError, TokenReduceError
from tokenreduce.events import Advanced, Event, Started, Warned
from tokenreduce.models.base import VideoModel
from tokenreduce.plan import Overrides
from tokenreduce.result import Answer
from tokenreduce.session import Session
from tokenreduce.turns import AHEAD
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown

_SIGN_SECONDS = 0.25


class Inbox(Protocol):
    """Where a worker's tasks come from."""

    @property
    def stopping(self) -> bool:
        """Whether the row in hand is to be the last."""
        ...

    def get(self, *, block: bool) -> Task | None:
        """The next task; None if there is none now, or, when blocking, ever."""
        ...


@dataclass
class _Held:
    """A task in hand. ready: once the video is prepared; its exception, if it cannot be."""

    task: Task
    session: Session
    decoder: Decoder
    ready: Future[None]
    checked: bool = False
    stepped_down: SteppedDown | None = None


class Desk:
    """Answers tasks one after the other until the inbox has no more. Leave the `with` block: no
    decoding child outlives it."""

    def __init__(
        self,
        recipe: Recipe,
        model: VideoModel,
        name: str,
        inbox: Inbox,
        send: Callable[[Message], None],
        decoder: Callable[[], Decoder] = Decoder,
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._name = name
        self._inbox = inbox
        self._send = send
        self._decoders = deque(decoder() for _ in range(AHEAD + 1))
        self._waiting: Task | None = None
        self._aside = ThreadPoolExecutor(AHEAD, thread_name_prefix="prepare")
        self._turn = threading.Lock()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *raised: object) -> None:
        self._aside.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def work(self) -> None:
        ahead: deque[_Held] = deque()
        self._peak_begins()
        while not self._inbox.stopping:
            self._fill(ahead)
            held = ahead.popleft() if ahead else self._next(block=True)
            if held is None:
                return
            if not held.task.alone:
                self._fill(ahead)
            wait([held.ready])
            self._answer(held, ahead)

    def _fill(self, ahead: deque[_Held]) -> None:
        while len(ahead) < AHEAD and (held := self._next(block=False)) is not None:
            ahead.append(held)

    def _next(self, *, block: bool) -> _Held | None:
        """The next task, being prepared. One that must be alone waits for the last to end."""
        task = self._waiting or self._inbox.get(block=block)
        self._waiting = None
        if task is not None and task.alone and not block:
            self._waiting, task = task, None
        return None if task is None else self._prepared(task)

    def _prepared(self, task: Task) -> _Held:
        """Its video is decoded and encoded from now on, in another thread."""
        self._decoders.rotate()
        decoder = self._decoders[0]
        session = self._session(task, decoder, self._recipe.over)
        watch = Reporter(self._name, task.number, self._send)
        return _Held(task, session, decoder, self._aside.submit(session.prepare, watch))

    def _session(self, task: Task, decoder: Decoder, over: Overrides) -> Session:
        many = len(task.wanted) > 1
        return self._recipe.session(
            task.path, self._model, decoder, over, many=many, turn=self._turn
        )

    def _answer(self, held: _Held, beside: deque[_Held]) -> None:
        for wanted in held.task.wanted:
            if self._inbox.stopping:
                return
            replied = self._replied(held, wanted, beside)
            self._peak_begins()
            self._send(replied)
        held.session.close()
        self._send(Done(self._name, held.task.number))

    def _peak_begins(self) -> None:
        """Each row tells the device's peak since the row before, of all that went on meanwhile: so
        no moment of a batch is in no row."""
        from tokenreduce.memory import reset_device_peak  # imports torch

        reset_device_peak(self._model.device)

    def _replied(self, held: _Held, wanted: Wanted, beside: deque[_Held]) -> Replied:
        started, number = now(), held.task.number
        failure: Failure | None = None
        answer, trace, unread = None, None, False
        try:
            said = self._asked(held, wanted.question, beside).to_json()
            json.dumps(said, allow_nan=False)  # a row must be one that JSON can say
            answer = said
        except TokenReduceError as error:
            failure = Failure(type(error).__name__, one_line(error))
            gone = isinstance(error, InputError)
            unread = gone and not unchanged(held.task.path, held.task.digest)
        except Exception as error:  # a bug is one row's failure, with its traceback
            if _fatal(error):
                raise
            failure = Failure(type(error).__name__, one_line(error))
            trace = traceback.format_exc()
        step = held.stepped_down
        return Replied(self._name, number, wanted.id, started, answer, failure, step, trace, unread)

    def _asked(self, held: _Held, question: str, beside: deque[_Held]) -> Answer:
        """Where memory does not suffice: again with nothing beside it, then again with half."""
        try:
            return self._ask(held, question)
        except CapacityError:
            if held.stepped_down is not None:
                raise
        # Not in the handler, here and below: there the failed attempt's tensors are still held.
        self._make_room(held, beside)
        try:
            return self._ask(held, question)
        except CapacityError:
            less = self._less(held)
            if less is None:
                raise
        over, held.stepped_down = less
        self._renew(held, over)
        return self._ask(held, question)

    def _ask(self, held: _Held, question: str) -> Answer:
        held.ready.result()
        if not held.checked:
            if not unchanged(held.task.path, held.task.digest):
                raise InputError(
                    f"{shown(held.task.path)}: changed while it was read; run again when it is done"
                )
            held.checked = True
        return held.session.ask(question, watch=Reporter(self._name, held.task.number, self._send))

    def _make_room(self, held: _Held, beside: deque[_Held]) -> None:
        wait([other.ready for other in beside])
        self._renew(held)

    def _less(self, held: _Held) -> tuple[Overrides, SteppedDown] | None:
        """None where the file could not even be opened, or half of it cannot be asked for."""
        if held.session.plan is None:
            return None
        return smaller(held.session.over, held.session.planned)

    def _renew(self, held: _Held, over: Overrides | None = None) -> None:
        """The task's video is prepared again, in the thread that asks."""
        held.session = self._session(held.task, held.decoder, over or self._recipe.over)
        held.ready = Future()
        held.ready.set_result(None)
        from tokenreduce.memory import free_device  # imports torch

        free_device(self._model.device)


class Reporter:
    """A watcher that sends on what a driver wants to know, not too often."""

    def __init__(self, worker: str, task: int, send: Callable[[Message], None]) -> None:
        self._worker, self._task, self._send = worker, task, send
        self._totals: dict[str, int | None] = {}
        self._sent = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Started(part, total):
                self._totals[part] = total
                self._tell(Working(self._worker, self._task, part, 0, total))
            case Advanced(part, done):
                if time.monotonic() - self._sent >= _SIGN_SECONDS:
                    total = self._totals.get(part)
                    self._tell(Working(self._worker, self._task, part, done, total))
            case Warned(message):
                self._send(Warning(self._worker, self._task, message))

    def _tell(self, message: Working) -> None:
        self._sent = time.monotonic()
        self._send(message)


def one_line(error: BaseException) -> str:
    """What is left of a message that may be long, or empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:499] + "…"


def _fatal(error: Exception) -> bool:
    """After these the device is of no use to this process any more."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)
