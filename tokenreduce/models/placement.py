"""Where and how a model is loaded: device, dtype and quantisation. Knows no family of models."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from tokenreduce.errors import CapacityError, SettingError
from tokenreduce.models.device_check import ADVICE, available, check_device, check_kernels, why_not
from tokenreduce.models.quantize import Quantize, choose
from tokenreduce.models.spec import TextSpec

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class Placement:
    """dtype: of everything that is not quantised. layers: the device of each of the language
    model's, where they are spread (see `spread`); none: `device`, where all else is."""

    device: torch.device
    dtype: torch.dtype
    quantize: Quantize
    layers: tuple[str, ...] = ()


def place(device: str, dtype: str, quantize: str, text: TextSpec) -> Placement:
    """The three settings made definite for this machine and this size of model.

    Raises SettingError for a name that does not exist, CapacityError for a device that is absent
    or cannot do it.
    """
    where = choose_device(device)
    check_device(where)
    placement = Placement(where, choose_dtype(dtype, where), choose(quantize, text, where))
    check_kernels(placement.quantize, where)
    return placement


def choose_device(asked: str) -> torch.device:
    """ "auto" is cuda, else mps, else cpu. "cuda:1" and so on name one of several."""
    if asked == "auto":
        if available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", asked):
        raise SettingError(f"device {asked!r}: it can be auto, cuda, cuda:<number>, cpu or mps")
    device = torch.device(asked)
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= present:
        why = f" ({why_not()})" if device.type == "cuda" and not present else ""
        raise CapacityError(
            f"device {asked}: this machine has {present} {device.type} devices that torch "
            f"{torch.__version__} can use{why}; choose auto or cpu, or {ADVICE}"
        )
    return device


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on an accelerator and float32 on a CPU."""
    if asked == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if asked not in _DTYPES:
        raise SettingError(f"dtype {asked!r}: it can be auto, {', '.join(_DTYPES)}")
    return _DTYPES[asked]
