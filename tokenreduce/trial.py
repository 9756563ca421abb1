"""Whether something works, tried once and remembered, failures as well; knows not what is tried."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, update_wrapper
from typing import Generic, TypeVarTuple

from tokenreduce.memory import short

Given = TypeVarTuple("Given")


class Trial(Generic[*Given]):
    """Made by `tried_once`."""

    def __init__(self, trial: Callable[[*Given], bool]) -> None:
        self._found = cache(lambda *given: _outcome(partial(trial, *given)))
        update_wrapper(self, trial)

    def __call__(self, *given: *Given) -> bool:
        """What the trial gave. Raises RuntimeError for what it raised; memory that ran out as it
        was raised, for the next time there may be enough."""
        found = self._found(*given)
        if isinstance(found, str):
            raise RuntimeError(found)
        return found

    @property
    def remembered(self) -> int:
        """How often it was asked without being tried."""
        return self._found.cache_info().hits

    def forget(self) -> None:
        self._found.cache_clear()


def tried_once(trial: Callable[[*Given], bool]) -> Trial[*Given]:
    """A decorator: `trial` runs once in a process for each set of arguments."""
    return Trial(trial)


def _outcome(trial: Callable[[], bool]) -> bool | str:
    """What it gave, or in one line what it raised: a cache keeps no exception, and what fails takes
    as long each time. With the exception itself all tensors of the trial would stay."""
    try:
        return trial()
    except Exception as error:  # from any compiler
        if short(error):
            raise
        return " ".join(f"{type(error).__name__}: {error}".split())
