"""Which of torch's kernels for attention may be used while this project reads and answers; knows no
model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import torch


class CudnnOff:
    """Keeps cuDNN's attention from being chosen, in all of the process, while at least one thread
    wants it so; afterwards it is as it was before the first."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._wanted, self._before = 0, False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._turn:
            if self._wanted == 0:
                self._before = torch.backends.cuda.cudnn_sdp_enabled()
                torch.backends.cuda.enable_cudnn_sdp(False)
            self._wanted += 1
        try:
            yield
        finally:
            with self._turn:
                self._wanted -= 1
                if self._wanted == 0:
                    torch.backends.cuda.enable_cudnn_sdp(self._before)


@cache
def cudnn_off() -> CudnnOff:
    """The one of the process: the switch is torch's, for all threads."""
    return CudnnOff()


cudnn_off()  # made by the one thread that imports: two at once could each make their own


def any_length(device: torch.device) -> AbstractContextManager[None]:
    """While it lasts, attention on a CUDA `device` is by kernels that serve every length.

    On data-centre cards of compute capability 9.0 and 10.0 torch prefers cuDNN, which makes a plan
    for each length it has not met in this thread, 23-37 ms of the host's time: reports of others,
    not measured here. A pruned prompt has eight or nine lengths, and without slots every token one
    more. Elsewhere torch does not prefer it and nothing changes.
    """
    return cudnn_off()() if device.type == "cuda" else _as_it_is()


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
