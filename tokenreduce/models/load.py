"""From a name to a loaded model: found, checked, placed. Knows no family of models."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from tokenreduce.events import Watcher, ignore
from tokenreduce.models.base import VideoModel
from tokenreduce.models.device_check import check_device, check_room, left_aside
from tokenreduce.models.families import FAMILIES, family_of
from tokenreduce.models.files import CONFIG, read_json
from tokenreduce.models.locate import (
    complete_here,
    config_folder,
    read_spec,
    resolve,
    spec_in,
    weights_folder,
)
from tokenreduce.models.placement import Placement, choose_device, place

__all__ = ["FAMILIES", "check", "load", "placed", "read_spec"]


def check(name: str, revision: str | None = None) -> None:
    """Compares the files of a model that is on this machine with its config.json, tensor by tensor.

    Reads headers and no weight; what would have to be downloaded first is left to `load`. Raises
    ModelError for a file or a tensor that is missing, unexpected or of another shape.
    """
    source = resolve(name, revision)
    folder = complete_here(source)
    if folder is None:
        return
    spec, config = spec_in(folder, source.name), read_json(folder / CONFIG, source.name)
    family = import_module(family_of(source.name, config).module)
    family.check_model(folder, spec, config)


def placed(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    revision: str | None = None,
    warn: Callable[[str], None],
) -> Placement:
    """Where and how `load` would put the model, with all refused that can be without its weights.

    The device is asked first, before even the configuration of a model that is not here. warn: told
    where "auto" leaves a card aside. Raises what `load` raises for settings and devices.
    """
    check_device(choose_device(device))
    if (told := left_aside(device)) is not None:
        warn(told)
    spec = read_spec(name, revision)
    placement = place(device, dtype, quantize, spec.text)
    check_room(name, spec, placement.quantize, placement.dtype, placement.device)
    return placement


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    revision: str | None = None,
    on_event: Watcher = ignore,
) -> VideoModel:
    """Loads the model that `name` stands for: an alias, a local folder or a hub id[@revision].

    device    auto | cpu | mps | cuda | cuda:<number>
    dtype     auto | bfloat16 | float16 | float32, of all that is not quantised
    quantize  auto | nf4 | int8 | none, of the language model's matrices
    on_event  told when a download begins; the caller times the loading

    Settings are checked before anything large is downloaded, files before anything is loaded.
    Raises SettingError for a name or setting that does not exist, ModelError for a checkpoint that
    is missing, damaged or not what it says, CapacityError for the device or its memory.
    """
    source = resolve(name, revision)
    spec = spec_in(config_folder(source), source.name)
    placement = place(device, dtype, quantize, spec.text)
    check_room(source.name, spec, placement.quantize, placement.dtype, placement.device)
    folder = weights_folder(source, on_event)
    # Read again: a download may have brought a newer configuration than the cache held.
    spec = spec_in(folder, source.name)
    config = read_json(folder / CONFIG, source.name)
    family = import_module(family_of(source.name, config).module)
    model: VideoModel = family.open_model(folder, spec, config, placement)
    return model
