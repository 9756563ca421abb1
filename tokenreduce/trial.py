"""Whether something works, tried once and remembered, failures as well; knows not what is tried."""

from __future__ import annotations

from collections.abc import Callable

from tokenreduce.memory import short

Outcome = bool | str
"""What a trial gave, or in one line what it raised."""


def outcome(trial: Callable[[], bool]) -> Outcome:
    """For a cache, which keeps no exception: what fails takes as long each time. Nor does this keep
    the exception itself, with which all tensors of the trial would stay.

    Running out of memory is raised as it is: the next time there may be enough.
    """
    try:
        return trial()
    except Exception as error:  # from any compiler
        if short(error):
            raise
        return " ".join(f"{type(error).__name__}: {error}".split())


def told(found: Outcome) -> bool:
    """What the trial gave. Raises RuntimeError for what it raised."""
    if isinstance(found, str):
        raise RuntimeError(found)
    return found
