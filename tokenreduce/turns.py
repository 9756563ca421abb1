"""Several videos viewed at once, and one at a time through the model; knows neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from tokenreduce.clock import Clock

if TYPE_CHECKING:
    import torch

AHEAD = 2
"""Files that a worker of a batch prepares, or has ready, beside the one that is asked about: while
one is encoded, another is decoded."""


class Turn(Protocol):
    """A lock."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


def alone(turn: Turn | None, device: torch.device, *, limited: bool) -> Turn | None:
    """`turn`, where nothing large may be on the device beside what it is held for: on a CUDA device
    whose memory is limited, for each stage is foreseen by itself. None elsewhere."""
    return turn if limited and device.type == "cuda" else None


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
