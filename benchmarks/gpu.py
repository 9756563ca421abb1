"""A random-weight LLaVA-Video-7B on the GPU that is here: speed, memory, and what fits.

    python -m benchmarks.gpu                                # everything, under 9 minutes on an H200
    python -m benchmarks.gpu --sections prefill-nf4,decode  # some of it
    python -m benchmarks.gpu --resume                       # what this commit and card lack yet
    python -m benchmarks.gpu --half --device cpu --sections profile   # what a CPU can be asked
    python -m benchmarks.gpu --tiny --device cpu            # a look without a GPU; means nothing

Most wanted first. Each finished section is written at once to results/gpu.json, in the place of the
same section there; a section that would not end within --minutes is not begun. With --commit the
name of the commit is given where there is no git. `python -m benchmarks.gpu_page` then writes
docs/performance.md anew. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    gpu_decode,
    gpu_memory,
    gpu_options,
    gpu_prefill,
    gpu_profile,
    gpu_rows,
    gpu_video,
    record,
)
from benchmarks.gpu_bench import Bench, NotDone
from benchmarks.gpu_scale import FULL, HALF, TINY, Scale
from tokenreduce.errors import SettingError, TokenReduceError

NAME = "gpu"
RESULT = record.RESULTS / f"{NAME}.json"
Measure = Callable[[Bench], tuple[gpu_rows.Figures, dict[str, Any]]]


@dataclass(frozen=True)
class Section:
    """minutes: it may take so many on a large card, making its model included. Guessed so far."""

    measure: Measure
    minutes: float


SECTIONS: Mapping[str, Section] = {
    "prefill-bf16": Section(partial(gpu_prefill.prefill, kind="none"), 0.6),
    "prefill-nf4": Section(partial(gpu_prefill.prefill, kind="nf4"), 0.7),
    "decode": Section(gpu_decode.decoding, 0.8),
    "first-token": Section(gpu_video.first_token, 1.4),
    "longest": Section(gpu_video.longest, 1.5),
    "small": Section(gpu_memory.small, 0.8),
    "peak": Section(gpu_memory.peak, 0.2),
    "prediction": Section(gpu_memory.prediction, 0.5),
    "profile": Section(gpu_profile.profiles, 0.4),
    "importance": Section(gpu_prefill.scoring, 0.5),
    "tower": Section(gpu_decode.tower, 1.2),
    "masked": Section(gpu_prefill.masking, 0.5),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every section that was begun came to its end; else 1."""
    options = gpu_options.parse(arguments, __doc__, list(SECTIONS), RESULT)
    begun = time.monotonic()
    if (why := missing(options.device)) is not None:
        print(f"benchmarks.gpu: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            indexed(options.device),
            _scale(options),
            Path(options.folder or folder),
            stand_in=options.stand_in,
            left=lambda: begun + 60 * options.minutes - time.monotonic(),
        )
        return _run(bench, options)


def missing(device: torch.device) -> str | None:
    """Why there is no such device here; None where there is."""
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device; --tiny --device cpu runs"
    there = torch.cuda.device_count()
    if (device.index or 0) >= there:
        return f"--device {device}: the last card here is cuda:{there - 1}"
    return None


def indexed(device: torch.device) -> torch.device:
    """The same with the number of the card, which torch's limit of memory does not do without."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _scale(options: argparse.Namespace) -> Scale:
    scale = TINY if options.tiny else HALF if options.half else FULL
    return scale if options.repeats is None else replace(scale, repeats=options.repeats)


def _run(bench: Bench, options: argparse.Namespace) -> int:
    here = {
        "commit": options.commit or record.commit(),
        "card": card(bench.device),
        "tiny": options.tiny,
        "stand_in": options.stand_in,
    }
    found = {} if options.output is None else stored(options.output)
    failed = False
    for name in (name for name in SECTIONS if name in options.sections):
        if options.resume and same(found.get(name), here):
            print(f"{name}: there already", flush=True)
            continue
        if bench.left() < 60 * SECTIONS[name].minutes and not options.tiny:
            print(f"{name}: not begun, {bench.left():.0f} s are left", flush=True)
            continue
        done = _section(bench, name)
        if done is None:
            failed = True
            continue
        found[name] = {**record.where(), **here, **done}
        print(table(name, found[name]), flush=True)
        if options.output is not None and not options.no_save:
            save(options.output, found, here)
    return int(failed)


def _section(bench: Bench, name: str) -> dict[str, Any] | None:
    """Its result; None where it came to no end, so that the sections after it are still run."""
    begun = time.monotonic()
    bench.clean()
    try:
        figures, details = SECTIONS[name].measure(bench)
    except (SettingError, NotDone) as error:  # no bitsandbytes, for one, or a small card
        why = str(error) if isinstance(error, NotDone) else f"{gpu_rows.NOT_DONE}{error}"
        figures, details = {row.key: why for row in gpu_rows.rows_of(name)}, {}
    except (torch.OutOfMemoryError, TokenReduceError) as error:
        if isinstance(error, TokenReduceError) and error.__cause__ is None:
            _told(name)
            return None
        figures = dict.fromkeys((row.key for row in gpu_rows.rows_of(name)), gpu_rows.NO_FIT)
        details = {"error": str(error).splitlines()[0]}
    except Exception:
        _told(name)
        return None
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "rows": gpu_rows.judged(name, figures), "details": details}


def _told(name: str) -> None:
    print(f"benchmarks.gpu: {name}: came to no end", file=sys.stderr)
    traceback.print_exc()


def card(device: torch.device) -> dict[str, Any]:
    """What figures depend on beside the commit."""
    if device.type != "cuda":
        return {"name": "cpu"}
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "memory_bytes": facts.total_memory,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
    }


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.split()
    return lines[0] if lines else None


def stored(path: Path) -> dict[str, Any]:
    """The sections written before."""
    return dict(json.loads(path.read_text())["result"]) if path.exists() else {}


def same(section: Mapping[str, Any] | None, here: Mapping[str, Any]) -> bool:
    """Whether a stored section is of this commit, card and size. Changed files are no commit."""
    commit = str(here["commit"])
    if section is None or commit == "unknown" or commit.endswith("-dirty"):
        return False
    return all(section.get(key) == value for key, value in here.items())


def save(path: Path, found: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Whole or not at all: a run may be ended at any moment."""
    result = {name: found[name] for name in SECTIONS if name in found}
    written = {"name": NAME, **record.where(), "commit": here["commit"], "card": here["card"]}
    written |= {"machine": record.machine(), "result": result}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(written, indent=1, default=_plain) + "\n")
    os.replace(beside, path)


def _plain(value: Any) -> Any:
    return asdict(value)


def table(name: str, section: Mapping[str, Any]) -> str:
    """For the terminal."""
    lines = [f"{name}: {section['seconds']:.1f} s"]
    for row in gpu_rows.rows_of(name):
        found = section["rows"][row.key]
        mark = {True: "met", False: "NOT MET", None: ""}[found["met"]]
        figure = gpu_rows.told(found["figure"], row.unit)
        lines.append(f"  {row.what:<84} {figure:>16}  {row.wanted:<14} {mark}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
