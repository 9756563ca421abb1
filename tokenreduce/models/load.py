"""From a name to a loaded model: found, checked, placed. Knows no family of models."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from tokenreduce.errors import SettingError
from tokenreduce.events import Watcher, ignore
from tokenreduce.models.aliases import ALIASES
from tokenreduce.models.base import VideoModel
from tokenreduce.models.builtin import builtin
from tokenreduce.models.device_check import (
    check_device,
    check_room,
    left_aside,
    scarce,
    slow_attention,
)
from tokenreduce.models.families import FAMILIES, family_of
from tokenreduce.models.fetching import weights_folder
from tokenreduce.models.files import CONFIG, read_json
from tokenreduce.models.locate import (
    Source,
    cached,
    complete_here,
    config_folder,
    read_spec,
    resolve,
    spec_in,
)
from tokenreduce.models.mapped import Stored
from tokenreduce.models.placement import Placement, choose_device, place
from tokenreduce.models.saved import manifest_of, stored_quantize
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.spread import spread

__all__ = ["FAMILIES", "check", "load", "placed", "read_spec"]


def check(name: str, revision: str | None = None) -> None:
    """Compares the files of a model that is on this machine with its config.json, tensor by tensor.

    Reads headers and no weight; what would have to be downloaded first is left to `load`. Raises
    ModelError for a file or a tensor that is missing, unexpected or of another shape.
    """
    source = resolve(name, revision)
    folder = complete_here(source)
    if folder is not None:
        stored(folder, source.name)


def stored(folder: Path, name: str) -> dict[str, Stored]:
    """The tensors in `folder`, complete, by the names that the model gives them. Raises ModelError,
    see `check`."""
    spec, config = spec_in(folder, name), read_json(folder / CONFIG, name)
    family = import_module(family_of(name, config).module)
    found: dict[str, Stored] = family.check_model(folder, spec, config)
    return found


def placed(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    revision: str | None = None,
    offline: bool = False,
    device_map: str = "none",
    max_memory_bytes: int | None = None,
    warn: Callable[[str], None],
) -> Placement:
    """Where and how `load` would put the model, with all refused that can be without its weights.

    The device is asked first, before even the configuration of a model that is not here. warn: told
    where "auto" leaves a card aside, of a dtype for which a card has only slow attention, and of
    weights for which the host's memory does not suffice.
    Raises what `load` raises for settings and devices.
    """
    check_device(choose_device(device))
    if (told := left_aside(device)) is not None:
        warn(told)
    early = _early(name, device, dtype, quantize, device_map)
    if early is not None:
        where, spec = early
        check_room(name, spec, where.quantize, where.dtype, where.device)
        _warn_of_size(name, where, spec, warn)
    source = resolve(name, revision, offline=offline)
    found, spec = _settled(source, device, dtype, quantize, device_map, max_memory_bytes)
    if early is None and not found.layers:
        _warn_of_size(source.name, found, spec, warn)
    if (told := slow_attention(found.device, found.dtype)) is not None:
        warn(told)
    return found


def _early(
    name: str, device: str, dtype: str, quantize: str, device_map: str
) -> tuple[Placement, ModelSpec] | None:
    """Of an alias, by the size that is known of it, before its configuration is downloaded."""
    if device_map != "none" or name.lower() not in ALIASES:
        return None
    spec = builtin(name.lower())
    return None if spec is None else (place(device, dtype, quantize, spec.text), spec)


def _warn_of_size(
    name: str, where: Placement, spec: ModelSpec, warn: Callable[[str], None]
) -> None:
    if (told := scarce(name, spec, where.quantize, where.dtype, where.device)) is not None:
        warn(told)


def _settled(
    source: Source,
    device: str,
    dtype: str,
    quantize: str,
    device_map: str,
    max_memory_bytes: int | None,
) -> tuple[Placement, ModelSpec]:
    """From the configuration alone."""
    folder = config_folder(source)
    spec = spec_in(folder, source.name)
    placement = place(device, dtype, _as_stored(source, folder, quantize), spec.text)
    if device_map != "none":
        placement = spread(placement, spec, device_map, device, max_memory_bytes)
    else:
        check_room(source.name, spec, placement.quantize, placement.dtype, placement.device)
    return placement, spec


def as_stored(name: str, quantize: str, revision: str | None = None) -> str:
    """What `quantize` comes to for the files that are on this machine; downloads nothing. Raises
    SettingError for what they do not hold."""
    source = resolve(name, revision)
    folder = source.folder or cached(source)
    return quantize if folder is None else _as_stored(source, folder, quantize)


def _as_stored(source: Source, folder: Path, quantize: str) -> str:
    """What is asked for, where the files leave a choice. Raises SettingError for what they do not
    hold."""
    if source.folder is None and manifest_of(folder) is not None:
        return quantize  # one of two that there are of this model
    bits = stored_quantize(read_json(folder / CONFIG, source.name), source.name)
    if bits is None or quantize == bits:
        return quantize
    if quantize == "auto":
        return bits
    raise SettingError(
        f"quantize {quantize}: {source.name} holds {bits} weights; set {bits} or auto, or give the "
        "original checkpoint"
    )


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    revision: str | None = None,
    offline: bool = False,
    device_map: str = "none",
    max_memory_bytes: int | None = None,
    on_event: Watcher = ignore,
) -> VideoModel:
    """Loads the model that `name` stands for: an alias, a local folder or a hub id[@revision].

    device    auto | cpu | mps | cuda | cuda:<number>
    dtype     auto | bfloat16 | float16 | float32, of all that is not quantised
    quantize  auto | nf4 | int8 | none, of the language model's matrices
    offline   nothing is downloaded: a model that is not here is an error
    device_map  none | auto: layers are spread over all GPUs, and what they have no room for stays
              in the CPU's memory, from where it is copied each time (see `spread`)
    max_memory_bytes  of each GPU, for device_map; None is what is free
    on_event  told when a download begins; the caller times the loading

    With nf4, weights that `models pull --nf4` saved of the same revision are used.

    Settings are checked before anything large is downloaded, files before anything is loaded.
    Raises SettingError for a name or setting that does not exist, ModelError for a checkpoint that
    is missing, damaged or not what it says, CapacityError for the device or its memory.
    """
    source = resolve(name, revision, offline=offline)
    placement, _ = _settled(source, device, dtype, quantize, device_map, max_memory_bytes)
    folder = weights_folder(source, on_event, quantised=placement.quantize == "nf4")
    # Read again: a download may have brought a newer configuration than the cache held.
    spec = spec_in(folder, source.name)
    config = read_json(folder / CONFIG, source.name)
    family = import_module(family_of(source.name, config).module)
    model: VideoModel = family.open_model(folder, spec, config, placement)
    return model
