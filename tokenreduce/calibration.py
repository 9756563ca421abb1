"""How fast this machine has been, so that seconds can be foreseen: a small file of past runs.

Every finished run leaves what it took; the middle of the last few counts. Nothing is foreseen for a
model, device, dtype and quantisation that has not been run here. Knows no plan and shows nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from tokenreduce.result import Answer

NAME = "calibration.json"
LAST = 5
"""Runs of one kind that are kept. The first on a device is slower than the others: a middle of five
forgets it."""

_MOST_BYTES = 1 << 20
_RATES = ("decode", "vision", "llm", "token")


@dataclass(frozen=True)
class Speed:
    """Seconds a frame for decoding, waited for; seconds a TFLOP of the tower and of the LLM's
    prefill; seconds a generated token, 0 where none was timed. runs: how many this is the middle
    of."""

    decode: float
    vision: float
    llm: float
    token: float
    runs: int


def key_of(model: str, machine: str, quantize: str) -> str:
    """machine: a device's name and the dtype."""
    return f"{model} | {machine} | {quantize}"


def machine_of(device: Any, dtype: Any) -> str | None:
    """A torch device's own name, and the dtype; None for a card that is not here."""
    import torch

    number = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return None
        return f"{torch.cuda.get_device_name(device)}, {number}"
    return f"{device.type}, {torch.get_num_threads()} threads, {number}"


def speed(folder: Path, key: str) -> Speed | None:
    """Of the runs noted in `folder`; None where there is none that can be read."""
    runs = _read(folder).get(key, [])
    if not runs:
        return None
    decode, vision, llm, token = (median(run[name] for run in runs) for name in _RATES)
    return Speed(decode, vision, llm, token, len(runs))


def note(folder: Path, key: str, answer: Answer) -> None:
    """Keeps what a run took, if it went the whole road. What cannot be written is no reason to
    fail: nothing is foreseen then."""
    if answer.frames.source != "decoded" or answer.images or not answer.frames.decoded:
        return
    flops, seconds = answer.flops, answer.seconds
    if min(flops.vision, flops.llm) <= 0 or answer.finish_reason == "interrupted":
        return
    after_first = max(0, answer.generated_tokens - 1)
    run = {
        "decode": seconds.decode / answer.frames.decoded,
        "vision": (seconds.encode + seconds.reduce) / (flops.vision / 1e12),
        "llm": seconds.prefill / ((flops.llm + flops.overhead) / 1e12),
        "token": seconds.generate / after_first if after_first else 0.0,
    }
    known = _read(folder)
    known[key] = [*known.get(key, []), run][-LAST:]
    temporary = folder / f"{NAME}.{secrets.token_hex(4)}.part"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known, indent=1))
        os.replace(temporary, folder / NAME)
    with suppress(OSError):
        temporary.unlink()


def _read(folder: Path) -> dict[str, list[dict[str, float]]]:
    """What is sound of the file; anyone may have written it."""
    try:
        with open(folder / NAME, "rb") as file:
            found = json.loads(file.read(_MOST_BYTES + 1))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: [run for run in runs if _sound(run)][-LAST:]
        for key, runs in found.items()
        if isinstance(runs, list)
    }


def _sound(run: Any) -> bool:
    return isinstance(run, Mapping) and all(
        isinstance(run.get(name), (int, float)) and isfinite(run[name]) and run[name] >= 0
        for name in _RATES
    )
