"""Ctrl-C while an answer comes: the answer ends there, and the program goes on."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from tokenreduce.events import Event, Started, Text


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
