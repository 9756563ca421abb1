"""Draws the live part of a batch on a terminal, in a thread; knows not what its lines say.

Whoever watches never waits for the terminal: it may be slow, or stopped with Ctrl-S.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Styled

REDRAW = 0.25
"""Seconds between two drawings."""


@dataclass(frozen=True)
class Picture:
    """above: lines that stay, from now on above the live part; live: its lines, none too wide."""

    above: list[Styled]
    live: list[Styled]


class Live:
    """Asks for a picture of so many columns and rows every REDRAW seconds, and draws it in place
    of the last one; gone once it closes."""

    def __init__(self, console: Console, picture: Callable[[int, int], Picture]) -> None:
        from rich.live import Live as Drawn

        self._console, self._picture = console, picture
        # Redirecting would send what is on stdout to stderr.
        self._drawn = Drawn(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Once; it draws from then on."""
        self._thread = threading.Thread(target=self._run, name="batch view", daemon=True)
        self._thread.start()

    @property
    def started(self) -> bool:
        return self._thread is not None

    def draw(self) -> None:
        from rich.console import Group

        size = self._console.size
        picture = self._picture(size.width, size.height)
        with self._console:  # all at once, or what is drawn flickers
            if picture.above:
                self._console.print(Group(*picture.above), soft_wrap=True)
            self._drawn.update(Group(*picture.live), refresh=True)

    def close(self) -> None:
        """Leaves what stays, and the terminal as it was; more than once is fine."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            if self._drawn.is_started:
                self.draw()
            self._drawn.stop()

    def _run(self) -> None:
        with suppress(OSError):  # the terminal is gone: no reason to fail
            self._drawn.start()
            self.draw()
            while not self._stop.wait(REDRAW):
                self.draw()
