"""A model that was quantised once and saved: where it is kept, and how its files must look.

The layout is transformers' own: a matrix becomes packed codes under its old name, and beside them
bitsandbytes' scales under that name with a suffix. Imports no torch and reads no weight.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from tokenreduce.errors import ModelError
from tokenreduce.models.files import read_json

FOLDER_VARIABLE = "TOKENREDUCE_MODELS"
MANIFEST = "tokenreduce.json"
MAIN = "main"
STATE = "quant_state.bitsandbytes__nf4"
BLOCK, NESTED_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one of theirs."""
# As transformers' class that holds the weights names the matrices of the language model's layers.
_MATRIX = re.compile(r"model\.language_model\.layers\.\d+\.(?:.+\.)?weight$")


@dataclass(frozen=True)
class Manifest:
    """What a saved folder was made from.

    model     the hub id, or the name of a local folder
    revision  as it was asked for; MAIN where none was
    commit    of the hub's snapshot, "" for a local folder
    """

    model: str
    revision: str
    commit: str
    quantize: str = "nf4"

    def write(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def of_hub(self, model: str, revision: str | None, commit: str | None) -> bool:
        """Whether it was made from a hub id at that commit; where that is not known (None), whether
        from that revision as it was then."""
        if self.model != model:
            return False
        return (
            self.commit == commit if commit else (revision or MAIN) in (self.revision, self.commit)
        )


def default_folder(environ: Mapping[str, str]) -> Path:
    """TOKENREDUCE_MODELS, or a place among this user's caches. Neither need exist."""
    if named := environ.get(FOLDER_VARIABLE):
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("tokenreduce") / "models"


def place_of(model: str, commit: str) -> Path:
    """Where the saved model of a hub id at a commit belongs."""
    return default_folder(os.environ) / f"{model.replace('/', '--')}@{commit[:12]}-nf4"


def manifest_of(folder: Path) -> Manifest | None:
    """None for a folder that this project did not save, or not wholly."""
    try:
        found = read_json(folder / MANIFEST, folder.name)
        return Manifest(**{name: str(found[name]) for name in Manifest.__dataclass_fields__})
    except (ModelError, KeyError):
        return None


def find(model: str, revision: str | None, commit: str | None) -> Path | None:
    """The saved folder of a hub id, the newest if there are several.

    commit: of the hub's cache at that revision; another is not found then. None where the cache no
    longer has it: then the revision must be the one that was saved.
    """
    try:
        folders = [
            path for path in default_folder(os.environ).iterdir() if path.name.endswith("-nf4")
        ]
    except OSError:
        return None
    fits = []
    for folder in folders:
        made = manifest_of(folder)
        if made is None or folder.name.startswith("."):
            continue
        if made.of_hub(model, revision, commit):
            fits.append(folder)
    return max(fits, key=lambda path: (path / MANIFEST).stat().st_mtime, default=None)


def stored_quantize(config: Mapping[str, Any], name: str) -> str | None:
    """ "nf4" for files that hold such weights, None for ordinary ones.

    Raises ModelError for any other quantisation, which could not be checked.
    """
    told = config.get("quantization_config")
    if told is None:
        return None
    found = told if isinstance(told, dict) else {}
    method = found.get("quant_method")
    if method == "bitsandbytes" and found.get("load_in_4bit") is True:
        if found.get("bnb_4bit_quant_type") == "nf4" and found.get("bnb_4bit_use_double_quant"):
            return "nf4"
        method = "bitsandbytes, and not as NF4 with double quantisation"
    raise ModelError(
        f"{name}: its weights are quantised already (by {method or 'nothing known'}); give the "
        "original checkpoint and --quantize, or what `tokenreduce models pull --nf4` saved"
    )


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is one of those that are quantised."""
    return len(shape) == 2 and _MATRIX.match(name) is not None


def packed(name: str, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """What stands in the files for a matrix: (dtype, shape) by name; None is any length."""
    weights = prod(shape)
    blocks = ceil(weights / BLOCK)
    return {
        name: ("U8", (ceil(weights / 2), 1)),
        f"{name}.absmax": ("U8", (blocks,)),
        f"{name}.quant_map": ("F32", (16,)),
        f"{name}.nested_absmax": ("F32", (ceil(blocks / NESTED_BLOCK),)),
        f"{name}.nested_quant_map": ("F32", (256,)),
        f"{name}.{STATE}": ("U8", None),
    }


def is_scale(name: str) -> bool:
    """Whether `name` is that of something beside a packed matrix, in saved files."""
    matrix, found, _ = name.rpartition(".weight.")
    return bool(found) and is_matrix(f"{matrix}.weight", (0, 0))


def check_state(text: bytes, shape: tuple[int, ...], name: str) -> None:
    """Raises ModelError unless `text`, what bitsandbytes wrote of a matrix, is of that shape."""
    try:
        state = json.loads(text)
        told = {key: state[key] for key in ("quant_type", "blocksize", "nested_blocksize")}
        told["shape"] = tuple(state["shape"])
        float(state["nested_offset"])
        known = state["dtype"] in ("float32", "float16", "bfloat16")
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{name}: cannot be read; pull the model again") from None
    wanted = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "nested_blocksize": NESTED_BLOCK,
        "shape": shape,
    }
    if told != wanted or not known or state.get("nested_dtype") != "float32":
        raise ModelError(
            f"{name}: describes {told}, not {wanted} as config.json says; pull the model again"
        )
