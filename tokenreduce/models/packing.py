"""Quantises a checkpoint and saves it, a file at a time: NF4 of the language model's matrices, all
else as it is. Knows no family of models, and nothing of where the checkpoint came from.

What is finished stays in a folder beside the place, and is not made again. Of the host's memory a
run takes what one file of the result takes, once or twice; the checkpoint's own files are mapped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tokenreduce.errors import ModelError, SettingError
from tokenreduce.models.device_check import check_kernels
from tokenreduce.models.disks import PART
from tokenreduce.models.files import CONFIG, INDEX, SINGLE, read_json
from tokenreduce.models.mapped import Stored, opened
from tokenreduce.models.placement import choose_dtype
from tokenreduce.models.quantize import bits_config, quantised
from tokenreduce.models.saved import Manifest, is_matrix, packed

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1}

_MADE = "made.json"
"""Says of what the parts are, until they are all there."""

OnTensor = Callable[[int, int], None]
"""Told how many tensors of how many are done."""


def check_packing(device: torch.device) -> None:
    """Raises SettingError or CapacityError where bitsandbytes cannot quantise on `device`."""
    if find_spec("bitsandbytes") is None:
        raise SettingError("--nf4: bitsandbytes is not installed; pull without --nf4")
    check_kernels("nf4", device)


def packed_bytes(stored: Mapping[str, Stored]) -> int:
    """Bytes of the tensors once they are saved, but for a few hundred of each matrix."""
    total = 0
    for name, one in stored.items():
        parts = packed(name, one.shape) if is_matrix(name, one.shape) else {}
        for dtype, shape in parts.values() or [(one.dtype, one.shape)]:
            total += prod(shape or (256,)) * _ITEM_BYTES[dtype]
    return total


def pack(
    folder: Path,
    stored: Mapping[str, Stored],
    to: Path,
    manifest: Manifest,
    device: torch.device,
    on_tensor: OnTensor = lambda _done, _of: None,
) -> Path:
    """Saves the checkpoint in `folder` as NF4 at `to`, which must not exist; goes on with what an
    earlier run left.

    stored: its tensors, as `load.stored` finds them; they keep the names they have there. Raises
    ModelError where the disk is full or may not be written, or a tensor cannot be read.
    """
    half = unfinished(to)
    files: dict[Path, dict[str, Stored]] = {}
    for name, one in stored.items():
        files.setdefault(one.path, {})[name] = one
    with _writing(to):
        _begin(half, manifest)
        done, shards = 0, sorted(files)
        map_of: dict[str, str] = {}
        for number, path in enumerate(shards, 1):
            name = SINGLE if len(shards) == 1 else _shard(number, len(shards))
            if not (half / name).exists():
                told = partial(_told, on_tensor, done, len(stored))
                _pack_file(files[path], half / name, device, told)
            done += len(files[path])
            on_tensor(done, len(stored))
            with opened(half / name) as file:
                map_of.update(dict.fromkeys(file.keys(), name))
        if len(shards) > 1:
            _write_json(half / INDEX, {"metadata": {}, "weight_map": map_of})
        _beside(folder, half, manifest.model)
        os.replace(half, to)
    return to


def unfinished(to: Path) -> Path:
    """The folder beside a place for what is not finished."""
    return to.with_name(f".{to.name}{PART}")


def _told(on_tensor: OnTensor, before: int, of: int, number: int) -> None:
    on_tensor(before + number, of)


def _pack_file(
    tensors: Mapping[str, Stored], to: Path, device: torch.device, on_tensor: Callable[[int], None]
) -> None:
    """One file of the checkpoint as one file of the result."""
    made: dict[str, Tensor] = {}
    path = next(iter(tensors.values())).path
    with opened(path) as file:
        for number, (name, one) in enumerate(tensors.items(), 1):
            tensor: Tensor = file.get_tensor(one.key)
            if is_matrix(name, one.shape):
                weight = tensor.to(device, choose_dtype("auto", device)).contiguous()
                for suffix, part in quantised(weight).items():
                    made[f"{one.key}{suffix}"] = part.cpu()
                del weight
            else:
                made[one.key] = tensor
            on_tensor(number)
    temporary = to.with_name(f"{to.name}{PART}")
    save_file(made, temporary, {"format": "pt"})
    # It writes what nobody else may read; as other files are is as it should be.
    temporary.chmod((to.parent / _MADE).stat().st_mode)
    os.replace(temporary, to)


def _begin(half: Path, manifest: Manifest) -> None:
    """The folder for what is finished: empty, unless it holds parts of this very thing."""
    made = half / _MADE
    told = {"of": vars(manifest)}
    if half.exists() and (not made.exists() or read_json(made, half.name) != told):
        shutil.rmtree(half)
    half.mkdir(parents=True, exist_ok=True)
    _write_json(made, told)


def _beside(folder: Path, half: Path, name: str) -> None:
    """Configuration and tokenizer; the manifest last, for it says that all is there."""
    for path in folder.iterdir():
        if path.name != INDEX and (path.suffix == ".json" or path.name == "merges.txt"):
            shutil.copyfile(path, half / path.name)
    config = read_json(folder / CONFIG, name)
    _write_json(half / CONFIG, config | {"quantization_config": bits_config("nf4").to_dict()})
    told = read_json(half / _MADE, name)["of"]
    (half / _MADE).unlink()
    Manifest(**told).write(half)


def _shard(number: int, of: int) -> str:
    return f"model-{number:05d}-of-{of:05d}.safetensors"


def _write_json(path: Path, told: object) -> None:
    path.write_text(json.dumps(told, indent=2) + "\n")


@contextmanager
def _writing(to: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{to}: cannot be written: {what}; the same command goes on where this one stopped"
        ) from error
