"""From settings to a session of the library; imports that only when one is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenreduce.batch.recipe import Recipe
    from tokenreduce.models.base import VideoModel
    from tokenreduce.result import Answer
    from tokenreduce.session import Session

OVER = (
    "budget",
    "keep",
    "mean_budget",
    "method",
    "frames",
    "seek",
    "decoder",
    "newlines",
    "time_text",
    "fps",
    "max_frames",
    "start",
    "end",
    "skip_duplicates",
)
_PLACING = ("revision", "device", "dtype", "quantize", "offline", "device_map")
_SAMPLING = ("max_new_tokens", "temperature", "seed")


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """How every file of a batch is asked. values: of every setting, by name. Raises SettingError,
    see `Recipe.of`."""
    from tokenreduce.batch.recipe import Recipe
    from tokenreduce.cache.store import default_folder
    from tokenreduce.models.base import Sampling
    from tokenreduce.occupant import Placing
    from tokenreduce.plan import Overrides
    from tokenreduce.room import Allowed

    return Recipe.of(
        values["model"],
        values["preset"],
        Overrides(**{name: values[name] for name in OVER}),
        Sampling(**{name: values[name] for name in _SAMPLING}),
        Placing(**{name: values[name] for name in _PLACING}),
        values["subtitles"],
        str(default_folder(os.environ)) if values["use_cache"] else None,
        Allowed(values["vram"], values["fit"]),
    )


def _note(answer: Answer, model: VideoModel) -> None:
    """For `tokenreduce plan`: how fast this machine is."""
    from tokenreduce.cache.store import default_folder
    from tokenreduce.calibration import key_of, machine_of, note

    machine = machine_of(model.device, model.dtype)
    if machine is not None:
        note(default_folder(os.environ), key_of(answer.model, machine, answer.quantize), answer)


def open_session(
    files: Sequence[str],
    values: Mapping[str, Any],
    *,
    keep_sheet: bool = False,
    many: bool = False,
) -> Session:
    """Nothing is read yet. values: of every setting, by name."""
    from tokenreduce.cache.store import Cache, default_folder
    from tokenreduce.models.base import Sampling
    from tokenreduce.occupant import Placing
    from tokenreduce.opening import Wanted
    from tokenreduce.plan import Overrides
    from tokenreduce.room import Allowed
    from tokenreduce.session import Session

    def taken(names: Sequence[str]) -> dict[str, Any]:
        return {name: values[name] for name in names}

    wanted = Wanted(
        files[0] if len(files) == 1 else tuple(files),
        values["preset"],
        Overrides(**taken(OVER)),
        Sampling(**taken(_SAMPLING)),
        values["subtitles"],
    )
    return Session(
        wanted,
        model=values["model"],
        placing=Placing(**taken(_PLACING)),
        cache=Cache(default_folder(os.environ)) if values["use_cache"] else None,
        keep_sheet=keep_sheet,
        many=many,
        allowed=Allowed(values["vram"], values["fit"]),
        finished=_note if values["use_cache"] else None,
    )
