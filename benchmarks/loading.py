"""Host memory that loading, quantising and saving a model take at most, of a generated checkpoint.

    python -m benchmarks.loading --save

Random weights in bfloat16, in shards, with the embedded model's tokenizer. Each way runs in a
process of its own, which loads the tiny model in the same way first, so that libraries count as
nothing. `anonymous` is memory of the process itself; `file` are pages of the checkpoint's files,
which the system takes back when it needs them; `resident` is both at one moment. Wanted: anonymous
memory over what was there <= one shard + what stays. Linux only. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import record
from tokenreduce.engine.host import HostedLlavaOnevision
from tokenreduce.models.files import CONFIG, INDEX, read_json, weight_files
from tokenreduce.models.llava_config import read_spec
from tokenreduce.models.llava_video import host_config
from tokenreduce.models.load import load, stored
from tokenreduce.models.locate import resolve
from tokenreduce.models.packing import pack
from tokenreduce.models.saved import Manifest
from tokenreduce.models.weights import empty_model

NAME = "loading"
WAYS = ("nf4", "none", "save", "saved")
_STATUS = Path("/proc/self/status")
_POLL_SECONDS = 0.002
_HOSTED = (
    (r"model.language_model.", "model."),
    (r"model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    (r"model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    (r"model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
)
"""As transformers names the parts, and as the original layout does."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.way is not None:
        print(json.dumps(measured(options.way, options.folder)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        found = compared(Path(scratch), options.width, options.layers, options.shard_mb * 10**6)
    print(json.dumps(found, indent=2))
    if options.save:
        chosen = {"width": options.width, "layers": options.layers, "shard_mb": options.shard_mb}
        print(record.write(NAME, found, chosen))
    return 0 if all(way["holds"] for way in found["ways"].values()) else 1


def compared(scratch: Path, width: int, layers: int, shard_bytes: int) -> dict[str, Any]:
    """Every way, each in a fresh process, and whether it keeps to what is wanted."""
    folder = made(scratch / "checkpoint", width, layers, shard_bytes)
    shards = [path.stat().st_size for path in weight_files(folder, NAME)]
    whole, largest = sum(shards), max(shards)
    ways: dict[str, Any] = {}
    quantised = 0
    for way in ("save", *(way for way in WAYS if way != "save")):
        ways[way] = _in_process(way, scratch)
        if way == "save":
            saved = scratch / "checkpoint-nf4"
            quantised = sum(path.stat().st_size for path in weight_files(saved, NAME))
        stays = whole if way == "none" else quantised
        ways[way]["allowed_bytes"] = largest + stays
        ways[way]["holds"] = ways[way]["anonymous_bytes"] <= largest + stays
    return {
        "checkpoint_bytes": whole,
        "shards": len(shards),
        "largest_shard_bytes": largest,
        "quantised_bytes": quantised,
        "ways": {way: ways[way] for way in WAYS},
    }


def made(folder: Path, width: int, layers: int, shard_bytes: int) -> Path:
    """A checkpoint in the original layout: the embedded model's with a larger language model."""
    source = resolve("demo").folder
    if source is None:
        raise RuntimeError("the embedded model is not in this package")
    folder.mkdir(parents=True)
    for path in source.glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    larger = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
        "num_key_value_heads": max(1, width // 256),
        "num_hidden_layers": layers,
    }
    config = {**read_json(folder / CONFIG, NAME), **larger}
    (folder / CONFIG).write_text(json.dumps(config))
    read_spec(NAME, config, {})  # whether it is one
    model = empty_model(HostedLlavaOnevision, host_config(NAME, config), NAME)
    shapes = {_original(name): tuple(one.shape) for name, one in model.state_dict().items()}
    del shapes["lm_head.weight"]  # tied
    _write(folder, shapes, shard_bytes)
    return folder


def _write(folder: Path, shapes: dict[str, tuple[int, ...]], shard_bytes: int) -> None:
    generator, number, map_of = torch.Generator().manual_seed(0), 0, dict[str, str]()
    shard: dict[str, Tensor] = {}

    def flush() -> None:
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name)
        map_of.update(dict.fromkeys(shard, name))
        shard.clear()

    for key, shape in shapes.items():
        shard[key] = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        if sum(one.nbytes for one in shard.values()) >= shard_bytes:
            flush()
            number += 1
    if shard:
        flush()
    (folder / INDEX).write_text(json.dumps({"weight_map": map_of}))


def _original(name: str) -> str:
    for ours, theirs in _HOSTED:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _in_process(way: str, scratch: Path) -> dict[str, Any]:
    # Blocks of the size that matrices of a real model have are given back once they are freed; here
    # they are smaller, and glibc would keep what it likes of them.
    run = record.run_process(
        [sys.executable, "-m", "benchmarks.loading", "--way", way, "--folder", str(scratch)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)},
    )
    if run.returncode != 0:
        raise RuntimeError(f"{way}: exit {run.returncode}: {run.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def measured(way: str, folder: Path) -> dict[str, Any]:
    """One way, in this process, after the libraries have been made to set themselves up."""
    torch.set_num_threads(1)
    work(way, Path(tempfile.mkdtemp(dir=folder)), Path(str(resolve("demo").folder)))
    gc.collect()
    before = memory_now()
    with Watched() as peaks:
        began = time.perf_counter()
        kept = work(way, folder, folder / "checkpoint")
        seconds = time.perf_counter() - began
    after = memory_now()
    found = {
        f"{kind}_bytes": peaks.most[kind] - before[kind]
        for kind in ("anonymous", "file", "resident")
    }
    del kept
    return {
        **found,
        "stays_anonymous_bytes": after["anonymous"] - before["anonymous"],
        "seconds": seconds,
    }


def work(way: str, scratch: Path, checkpoint: Path) -> object:
    """scratch: where the quantised model is, or will be, beside the checkpoint."""
    quantised = scratch / f"{checkpoint.name}-nf4"
    if way == "save":
        tensors = stored(checkpoint, NAME)
        return pack(checkpoint, tensors, quantised, Manifest(NAME, "main", ""), torch.device("cpu"))
    if way == "saved" and not quantised.exists():
        work("save", scratch, checkpoint)
    folder = quantised if way == "saved" else checkpoint
    quantize = "none" if way == "none" else "nf4"
    return load(str(folder), device="cpu", dtype="bfloat16", quantize=quantize)


def memory_now() -> dict[str, int]:
    """Bytes of this process, by kind. Raises RuntimeError where the system does not tell."""
    told = {"RssAnon": "anonymous", "RssFile": "file", "VmRSS": "resident"}
    found: dict[str, int] = {}
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
        kind, _, value = line.partition(":")
        if kind in told:
            found[told[kind]] = int(value.split()[0]) * 1024
    if len(found) < len(told):
        raise RuntimeError("this system does not tell of what kind a process's memory is")
    return found


class Watched:
    """Looks at this process's memory every 2 ms. most: the largest seen, by kind."""

    def __init__(self) -> None:
        self.most = memory_now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            for kind, size in memory_now().items():
                self.most[kind] = max(self.most[kind], size)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1024, help="of the language model")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--shard-mb", type=int, default=150)
    parser.add_argument("--save", action="store_true", help=f"write results/{NAME}.json")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
