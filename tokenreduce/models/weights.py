"""Loads safetensors into a transformers model under other names, and trusts nothing.

transformers fills a tensor it does not find with random numbers and goes on. So names and shapes
are compared from the files' headers before anything is loaded, and what was loaded is compared
again. Knows no family of models.
"""

from __future__ import annotations

import logging as python_logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from tokenreduce import memory
from tokenreduce.errors import ModelError
from tokenreduce.models.files import listed, weight_files
from tokenreduce.models.placement import Placement
from tokenreduce.models.quantize import bits_config

_Model = TypeVar("_Model", bound=PreTrainedModel)
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Names:
    """How a checkpoint names its tensors, as regular expressions.

    renames   (pattern, replacement), each applied once, in order
    spare     stored, known to be unused (after renaming)
    optional  not stored by every checkpoint, and unused (after renaming)
    """

    renames: tuple[tuple[str, str], ...]
    spare: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def rename(self, stored: str) -> str:
        for pattern, replacement in self.renames:
            stored = re.sub(pattern, replacement, stored, count=1)
        return stored


def load_weights(
    kind: type[_Model],
    config: PreTrainedConfig,
    folder: Path,
    name: str,
    names: Names,
    placement: Placement,
) -> _Model:
    """A model of class `kind` on its device, in eval mode, every weight from `folder`.

    Raises ModelError for a tensor that is missing, unexpected, of another shape or unreadable, and
    CapacityError if the device's memory does not suffice.
    """
    stored = check_headers(kind, config, folder, name, names)
    if placement.quantize != "none":
        # It reports at every layer that it casts, and that an optional CPU kernel is absent.
        python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)
    loader: Any = kind  # its signature does not know that two things come back
    with quiet(), memory.sufficient(too_small(name, placement)):
        # Given tensors and not the folder, in which transformers would look for adapters, pickled
        # metadata and generation settings. They are maps of the files: no copy is made here.
        model, report = loader.from_pretrained(
            None,
            state_dict=_mapped(stored),
            config=config,
            dtype=placement.dtype,
            device_map={"": placement.device},
            quantization_config=bits_config(placement.quantize),
            generation_config=GenerationConfig(),
            output_loading_info=True,
        )
    wrong = [
        *_other_than(report["missing_keys"], names.optional),
        *report["unexpected_keys"],
        *report["mismatched_keys"],
    ]
    if wrong:
        raise ModelError(f"{name}: {listed(wrong)} could not be loaded; please report it")
    loaded: _Model = model.eval().requires_grad_(False)
    return loaded


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, under the name it has there."""

    path: Path
    key: str
    shape: tuple[int, ...]


def check_headers(
    kind: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, name: str, names: Names
) -> dict[str, Stored]:
    """The tensors of `kind` by the names that it gives them, spare ones left out.

    Raises ModelError unless the files hold each of them once and in shape, and no other.
    """
    try:
        with torch.device("meta"), quiet():
            empty = kind(config)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: no model can be built from config.json: {reason}") from error
    wanted = {key: tuple(tensor.shape) for key, tensor in empty.state_dict().items()}
    tied = set(getattr(empty, "all_tied_weights_keys", None) or ())
    found = {names.rename(one.key): one for one in _stored(weight_files(folder, name))}
    missing = _other_than(wanted.keys() - found.keys() - tied, names.optional)
    if missing:
        raise ModelError(f"{name}: tensor {listed(missing)} missing in its safetensors files")
    unexpected = _other_than(found.keys() - wanted.keys(), names.spare)
    if unexpected:
        raise ModelError(
            f"{name}: unexpected tensor {listed(unexpected)}; the files do not fit config.json"
        )
    for key in wanted.keys() & found.keys():
        if wanted[key] != found[key].shape:
            raise ModelError(
                f"{name}: tensor {key} is {found[key].shape}, not {wanted[key]} as config.json says"
            )
    return {key: one for key, one in found.items() if key in wanted}


def _stored(paths: Sequence[Path]) -> Iterator[Stored]:
    """All tensors, from the files' headers. Raises ModelError for a damaged file."""
    seen: set[str] = set()
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118  # not a dict
                    piece = file.get_slice(key)
                    if piece.get_dtype() not in _FLOATS:
                        raise ModelError(f"{path}: {key} is {piece.get_dtype()}, not a float")
                    if key in seen:
                        raise ModelError(f"{path}: holds {key} once more; remove stale files")
                    seen.add(key)
                    yield Stored(path, key, tuple(piece.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: not readable as safetensors ({error})") from error


def _mapped(stored: dict[str, Stored]) -> dict[str, Tensor]:
    """Every tensor, backed by its file and read when it is used."""
    tensors: dict[str, Tensor] = {}
    for path in {one.path for one in stored.values()}:
        with safe_open(path, "pt") as file:
            for name, one in stored.items():
                if one.path == path:
                    tensors[name] = file.get_tensor(one.key)
    return tensors


def _other_than(names: set[str], patterns: Sequence[str]) -> list[str]:
    return sorted(n for n in names if not any(re.match(pattern, n) for pattern in patterns))


@contextmanager
def quiet() -> Iterator[None]:
    """transformers writes no progress bar and no report of its own meanwhile."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def too_small(name: str, placement: Placement) -> str:
    smaller = "a smaller model" if placement.quantize == "nf4" else "--quantize nf4"
    return f"{name}: the memory of {placement.device} does not suffice to load it; try {smaller}"
