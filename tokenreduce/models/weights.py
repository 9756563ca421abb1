"""Loads safetensors into a transformers model under other names, and trusts nothing.

transformers fills a tensor it does not find with random numbers and goes on. So names and shapes
are compared from the files' headers before anything is loaded, and what was loaded is compared
again. Knows no family of models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from tokenreduce.errors import CapacityError, ModelError
from tokenreduce.models.locate import weight_files
from tokenreduce.models.placement import Placement
from tokenreduce.models.quantize import bits_config

_Model = TypeVar("_Model", bound=PreTrainedModel)
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Names:
    """How a checkpoint names its tensors, as regular expressions.

    renames   (pattern, replacement with at most \\1), each applied once, in order
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
    check_headers(kind, config, folder, name, names)
    loader: Any = kind  # its signature does not know that two things come back
    with quiet(), out_of_memory(name, placement):
        model, report = loader.from_pretrained(
            str(folder),
            config=config,
            key_mapping=dict(names.renames),
            dtype=placement.dtype,
            device_map={"": placement.device},
            quantization_config=bits_config(placement.quantize),
            generation_config=GenerationConfig(),  # type: ignore[no-untyped-call]
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = _other_than(report["missing_keys"], names.optional)
    unexpected = _other_than(report["unexpected_keys"], names.spare)
    if missing or unexpected or report["mismatched_keys"]:
        found = [*missing, *unexpected, *report["mismatched_keys"]]
        raise ModelError(f"{name}: {_some(found)} could not be loaded; please report it")
    loaded: _Model = model.eval().requires_grad_(False)
    return loaded


def check_headers(
    kind: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, name: str, names: Names
) -> None:
    """Raises ModelError unless the files hold the tensors of `kind`, each once and in shape."""
    with torch.device("meta"), quiet():
        empty = kind(config)
    wanted = {key: tuple(tensor.shape) for key, tensor in empty.state_dict().items()}
    tied = set(getattr(empty, "all_tied_weights_keys", None) or ())
    stored = {names.rename(key): shape for key, shape in _stored(weight_files(folder, name))}
    missing = _other_than(wanted.keys() - stored.keys() - tied, names.optional)
    if missing:
        raise ModelError(f"{name}: tensor {_some(missing)} missing in its safetensors files")
    unexpected = _other_than(stored.keys() - wanted.keys(), names.spare)
    if unexpected:
        raise ModelError(
            f"{name}: unexpected tensor {_some(unexpected)}; the files do not fit config.json"
        )
    for key in wanted.keys() & stored.keys():
        if wanted[key] != stored[key]:
            raise ModelError(
                f"{name}: tensor {key} is {stored[key]}, not {wanted[key]} as config.json says"
            )


def _stored(paths: Sequence[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, as stored. Raises ModelError for a damaged file."""
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
                    yield key, tuple(piece.get_shape())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: not readable as safetensors ({error})") from error


def _other_than(names: set[str], patterns: Sequence[str]) -> list[str]:
    return sorted(n for n in names if not any(re.match(pattern, n) for pattern in patterns))


def _some(names: Sequence[object], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


@contextmanager
def quiet() -> Iterator[None]:
    """transformers writes no progress bar and no report of its own meanwhile."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def out_of_memory(name: str, placement: Placement) -> Iterator[None]:
    """Memory that does not suffice for loading becomes a CapacityError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise CapacityError(_too_small(name, placement)) from error
    except RuntimeError as error:
        # The CPU's allocator and MPS have no class of their own for it.
        if "not enough memory" in str(error) or "out of memory" in str(error):
            raise CapacityError(_too_small(name, placement)) from error
        raise


def _too_small(name: str, placement: Placement) -> str:
    smaller = "a smaller model" if placement.quantize == "nf4" else "--quantize nf4"
    return f"{name}: the memory of {placement.device} does not suffice to load it; try {smaller}"
