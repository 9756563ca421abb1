"""Ask questions about long local videos within an exact budget of visual tokens."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenreduce.errors import (
        CapacityError,
        InputError,
        ModelError,
        SettingError,
        TokenReduceError,
    )
    from tokenreduce.pipeline import answer
    from tokenreduce.preset import Preset, load_preset
    from tokenreduce.result import Answer

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "CapacityError",
    "InputError",
    "ModelError",
    "Preset",
    "SettingError",
    "TokenReduceError",
    "answer",
    "load_preset",
]

# Resolved on first use: importing the package must not import torch, for the sake of the command
# line's --help and of the decoding child.
_HOMES = {
    "Answer": "result",
    "CapacityError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
    "Preset": "preset",
    "SettingError": "errors",
    "TokenReduceError": "errors",
    "answer": "pipeline",
    "load_preset": "preset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tokenreduce' has no attribute {name!r}")
    return getattr(import_module(f"tokenreduce.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
