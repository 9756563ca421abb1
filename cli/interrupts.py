"""Ctrl-C while libraries are imported, and while an answer comes: the first ends the program, the
other the answer."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from tokenreduce.events import Event, Started, Text

from . import render

INTERRUPTED = 130


@contextmanager
def at_once() -> Iterator[None]:
    """While torch is imported, when nothing has begun: Ctrl-C ends the process there and then. As
    an exception it could be lost, since libraries catch whatever their imports raise, or stop torch
    half-way."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    render.error("interrupted")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


class Stopper:
    """Told of each event of one question, and asked between two tokens whether to stop.

    From the first token on, one Ctrl-C lets the answer end in good order; before that, or with a
    second one, a KeyboardInterrupt is raised where the program is. In another thread than the main
    one it does nothing.
    """

    def __init__(self) -> None:
        self._generating = self.told = False
        self._before: Any = None

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def __call__(self) -> bool:
        return self.told

    def see(self, event: Event) -> None:
        match event:
            case Started("answer") | Text():
                self._generating = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.told or not self._generating:
            raise KeyboardInterrupt
        self.told = True
