"""Loads safetensors into a transformers model under other names, and trusts nothing.

transformers fills a tensor it does not find with random numbers and goes on. So names and shapes
are compared from the files' headers before anything is loaded, and what was loaded is compared
again. Knows no family of models.
"""

from __future__ import annotations

import logging as python_logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from tokenreduce import memory
from tokenreduce.errors import ModelError
from tokenreduce.models.device_check import ADVICE
from tokenreduce.models.files import CONFIG, listed, read_json, weight_files
from tokenreduce.models.mapped import Stored, later, opened, stored_in
from tokenreduce.models.placement import Placement
from tokenreduce.models.quantize import bits_config, promise_dtype
from tokenreduce.models.saved import (
    STATE,
    check_state,
    is_matrix,
    is_scale,
    packed,
    stored_quantize,
)
from tokenreduce.models.spread import device_map_of

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
    bits: Any = bits_config(placement.quantize, placement.dtype)
    if bits is not None:
        # It reports at every layer that it casts, and that an optional CPU kernel is absent.
        python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)
    whole = stored_quantize(read_json(folder / CONFIG, name), name) is None
    dtypes: dict[str, torch.dtype] = {}
    if not whole:  # by this transformers knows that the files hold codes, and not weights
        config.quantization_config = bits.to_dict()
        # It leaves all of such files in the dtype they have.
        plain = [key for key, one in stored.items() if one.dtype in _FLOATS and not is_scale(key)]
        dtypes = dict.fromkeys(plain, placement.dtype)
    copied: set[str] = set()
    if bits is not None and whole and placement.device.type == "cpu":
        # What is quantised needs its file no longer; what stays beside it would hold it in memory.
        copied = {key for key, one in stored.items() if not is_matrix(key, one.shape)}
    where: dict[str, Any] = {"": placement.device}
    if placement.layers:
        where = device_map_of(empty_model(kind, config, name), placement)
    loader: Any = kind  # its signature does not know that two things come back
    with quiet(), memory.sufficient(too_small(name, placement)):
        # Given tensors and not the folder, in which transformers would look for adapters, pickled
        # metadata and generation settings. Each is read when its turn comes.
        model, report = loader.from_pretrained(
            None,
            state_dict=later(stored, dtypes, copied),
            config=config,
            dtype=placement.dtype,
            device_map=where,
            quantization_config=bits if whole else None,
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
    if not whole:
        promise_dtype(model, placement.dtype)
    loaded: _Model = model.eval().requires_grad_(False)
    return loaded


def check_headers(
    kind: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, name: str, names: Names
) -> dict[str, Stored]:
    """The tensors of `kind` by the names that it gives them, spare ones left out; of a model that
    was saved quantised, also those that stand beside its packed matrices.

    Raises ModelError unless the files hold each of them once and in shape, and no other.
    """
    empty = empty_model(kind, config, name)
    wanted = {key: tuple(tensor.shape) for key, tensor in empty.state_dict().items()}
    tied = set(getattr(empty, "all_tied_weights_keys", None) or ())
    found = {names.rename(one.key): one for one in stored_in(weight_files(folder, name))}
    quantised = stored_quantize(read_json(folder / CONFIG, name), name) is not None
    matrices = {k: shape for k, shape in wanted.items() if quantised and is_matrix(k, shape)}
    beside = {part for key, shape in matrices.items() for part in packed(key, shape)} - set(wanted)
    expected = wanted.keys() | beside
    missing = _other_than(expected - found.keys() - tied, names.optional)
    if missing:
        raise ModelError(f"{name}: tensor {listed(missing)} missing in its safetensors files")
    for key, one in found.items():
        if one.dtype not in _FLOATS and key not in beside and key not in matrices:
            raise ModelError(f"{one.path}: {one.key} is {one.dtype}, not a float")
    unexpected = _other_than(found.keys() - expected, names.spare)
    if unexpected:
        raise ModelError(
            f"{name}: unexpected tensor {listed(unexpected)}; the files do not fit config.json"
        )
    for key in (wanted.keys() & found.keys()) - matrices.keys():
        if wanted[key] != found[key].shape:
            raise ModelError(
                f"{name}: tensor {key} is {found[key].shape}, not {wanted[key]} as config.json says"
            )
    _check_packed(matrices, found, name)
    return {key: one for key, one in found.items() if key in expected}


def empty_model(kind: type[_Model], config: PreTrainedConfig, name: str) -> _Model:
    """The model without any weight, on torch's meta device. Raises ModelError."""
    try:
        with torch.device("meta"), quiet():
            return kind(config)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: no model can be built from config.json: {reason}") from error


def _check_packed(
    matrices: Mapping[str, tuple[int, ...]], found: Mapping[str, Stored], name: str
) -> None:
    """Raises ModelError unless each of the quantised matrices is stored as bitsandbytes would."""
    states: dict[Path, dict[str, tuple[int, ...]]] = {}
    for key, shape in matrices.items():
        for part, (dtype, form) in packed(key, shape).items():
            one = found[part]
            if one.dtype != dtype or (form is not None and one.shape != form):
                raise ModelError(
                    f"{name}: tensor {part} is {one.dtype} {one.shape}, not {dtype} "
                    f"{form or 'of any length'} as NF4 has it; pull the model again"
                )
        state = found[f"{key}.{STATE}"]
        states.setdefault(state.path, {})[state.key] = shape
    for path, keys in states.items():
        with opened(path) as file:
            for key, shape in keys.items():
                check_state(bytes(file.get_tensor(key).tolist()), shape, f"{path}: {key}")


def _other_than(names: set[str], patterns: Sequence[str]) -> list[str]:
    return sorted(n for n in names if not any(re.match(pattern, n) for pattern in patterns))


@contextmanager
def quiet() -> Iterator[None]:
    """transformers writes no progress bar and no report of its own meanwhile, and accelerate not
    that layers are in the CPU's memory, which was asked for."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    spreading = python_logging.getLogger("accelerate.big_modeling")
    before = spreading.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    spreading.setLevel(python_logging.ERROR)
    try:
        yield
    finally:
        spreading.setLevel(before)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def too_small(name: str, placement: Placement) -> str:
    smaller = "a smaller model" if placement.quantize == "nf4" else "--quantize nf4"
    return (
        f"{name}: the memory of {placement.device} does not suffice to load it; try {smaller}, or "
        f"{ADVICE}"
    )
