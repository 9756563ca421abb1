"""Several videos viewed at once, and one at a time through the model; knows neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tokenreduce.clock import Clock


class Turn(Protocol):
    """A lock."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


@contextmanager
def in_turn(turn: Turn | None, clock: Clock) -> Iterator[None]:
    """Holds it; waiting for it counts for no part of `clock`."""
    if turn is None:
        yield
        return
    with clock.waiting():
        turn.acquire()
    try:
        yield
    finally:
        turn.release()
