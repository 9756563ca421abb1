"""The files of a checkpoint in a folder: which there must be, and whether they can be read.

Knows nothing about where the folder came from or what the weights mean; imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenreduce.errors import ModelError

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MOST_JSON_BYTES = 64 << 20


def existing(folder: Path, name: str) -> Path:
    """`folder`, if it is one. Raises ModelError."""
    if not os.path.exists(folder):
        raise ModelError(f"{name}: no such folder; give an alias, a model folder or a hub id")
    if not os.path.isdir(folder):
        raise ModelError(f"{name}: a file, not a model folder; give the folder with config.json")
    return folder


def complete(folder: Path, name: str) -> Path:
    """`folder`, if every file it needs is there and may be read. Raises ModelError."""
    read_json(existing(folder, name) / CONFIG, name)
    missing = missing_files(folder, name)
    if SINGLE in missing:
        pickled = any(next(folder.glob(kind), None) for kind in _PICKLES)
        found = "only pickled weights" if pickled else "no weights"
        raise ModelError(
            f"{name}: {found} in {folder}; only safetensors are loaded: download those"
        )
    if missing:
        raise ModelError(f"{name}: {listed(missing)} missing in {folder}; download it again")
    for path in weight_files(folder, name):
        if not os.access(path, os.R_OK):
            raise ModelError(f"{path}: may not be read; check its permissions")
    return folder


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files that make up the checkpoint, present or not, in order.

    Raises ModelError if the index is not one, or lists a file outside the folder.
    """
    if os.path.exists(folder / SINGLE) or not os.path.exists(folder / INDEX):
        return [folder / SINGLE]
    shards = read_json(folder / INDEX, name).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{folder / INDEX}: no weight_map; download the checkpoint again")
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard or shard.startswith("."):
            raise ModelError(f"{folder / INDEX}: lists {shard!r}, which is not a file name")
        if not shard.endswith(".safetensors"):
            raise ModelError(f"{folder / INDEX}: lists {shard!r}; only safetensors are loaded")
    return sorted(folder / shard for shard in set(shards.values()))


def missing_files(folder: Path, name: str) -> list[str]:
    """Names of the files without which the checkpoint cannot be loaded."""
    wanted = [folder / CONFIG, *weight_files(folder, name)]
    missing = [path.name for path in wanted if not os.path.exists(path)]
    if not any(
        all(os.path.exists(folder / file) for file in files)
        for files in (("tokenizer.json",), ("vocab.json", "merges.txt"))
    ):
        missing.append("tokenizer.json")
    return missing


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError that names the file and what is wrong."""
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ModelError(f"{path}: {path.stat().st_size} bytes, too large for a configuration")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{name}: no {path.name} in {path.parent}; give a model folder") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds no JSON object; give a model folder")
    return found


def listed(names: Sequence[object], most: int = 3) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more
