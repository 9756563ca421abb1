"""Brings a model onto this machine before it is needed, and may save it quantised; knows no family.

What can be refused is refused first: a name, a folder, a model that is not supported, bitsandbytes,
the disk. An interrupted pull leaves what it has, and the next one goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tokenreduce.errors import ModelError, SettingError
from tokenreduce.models import saved
from tokenreduce.models.device_check import available, weight_bytes
from tokenreduce.models.disks import arriving, begun_bytes, bytes_in, check_disks
from tokenreduce.models.fetching import fetch, listing, size_of
from tokenreduce.models.files import CONFIG, complete, missing_files, read_json, weight_files
from tokenreduce.models.load import stored
from tokenreduce.models.locate import (
    WANTED,
    Source,
    cache_of,
    cached,
    complete_here,
    config_folder,
    download,
    resolve,
    spec_in,
)
from tokenreduce.models.packing import check_packing, pack, packed_bytes, unfinished
from tokenreduce.models.saved import Manifest, place_of, stored_quantize

Step = Literal["download", "quantise"]
Tell = Callable[[Step, int, int], None]
"""Told of a step how much of how much is done: bytes of "download", tensors of "quantise"."""


@dataclass(frozen=True)
class Pulled:
    """Where a model is now. new: whether anything had to be fetched or made for it."""

    name: str
    folder: Path
    size_bytes: int
    quantize: str | None
    new: bool


def pull(
    name: str,
    *,
    revision: str | None = None,
    nf4: bool = False,
    to: Path | None = None,
    tell: Tell = lambda _step, _done, _of: None,
) -> Pulled:
    """Downloads what `name` stands for, and with nf4 saves it quantised, by CUDA if it is there.

    to: a folder of one's own, which `--model` then names: for the quantised model if nf4, else for
    the checkpoint. Without it the hub's cache holds the checkpoint, and the quantised model is put
    where `load` finds it. One that holds this quantised model already stays as it is.

    Raises SettingError for a name or folder that will not do, ModelError for a model that cannot be
    had or used and for a disk without room, CapacityError where bitsandbytes does not work.
    """
    source = resolve(name, revision)
    if source.folder is not None and not (nf4 and to):
        raise SettingError(
            f"{name}: is on this machine, there is nothing to pull; --nf4 --to DIR saves it "
            "quantised in DIR"
        )
    device = torch.device("cuda" if available() else "cpu")
    if nf4:
        check_packing(device)
    to = None if to is None else Path(os.path.expanduser(to))
    if nf4 and to is not None and _holds(to, source):
        return _pulled(source, to, "nf4", new=False)
    _check_folder(to, source.name, nf4=nf4)
    folder, new = _original(source, None if nf4 else to, to if nf4 else None, tell, nf4=nf4)
    if not nf4:
        return _pulled(source, folder, None, new=new)
    return _quantised(source, folder, to, device, tell)


def _original(
    source: Source, to: Path | None, beside: Path | None, tell: Tell, *, nf4: bool
) -> tuple[Path, bool]:
    """The folder of the checkpoint itself, and whether any of it had to be downloaded.

    to: where it goes instead of the hub's cache; beside: where the quantised one will.
    """
    if source.folder is not None:
        return complete(source.folder, source.name), False
    try:
        every = listing(source, to)
    except ModelError:
        here = complete_here(source, quantised=False) if to is None else None
        if here is None:
            raise
        return here, False  # all of it, and nothing newer to be had without the hub
    missing = [one for one in every if one.will_download]
    # Unsupported, and it is said before gigabytes come.
    spec = spec_in(config_folder(source), source.name)
    cache = cache_of(source) if to is None else to
    needs = [(cache, size_of(source, every, missing) - begun_bytes(cache))]
    if nf4:
        made = saved.default_folder(os.environ) if beside is None else beside
        needs.append((made, weight_bytes(spec, "nf4", torch.bfloat16)))
    if missing:
        check_disks(source.name, needs)
        size = sum(one.file_size or 0 for one in missing)
        with arriving(cache, size, lambda done, of: tell("download", done, of)):
            fetch(source, missing, to)
    return complete(download(source, WANTED, to), source.name), bool(missing)


def _quantised(
    source: Source, folder: Path, to: Path | None, device: torch.device, tell: Tell
) -> Pulled:
    """The checkpoint in `folder`, whole, saved as NF4."""
    if stored_quantize(read_json(folder / CONFIG, source.name), source.name) is not None:
        raise SettingError(f"{source.name}: is quantised already; pull it without --nf4")
    commit = "" if source.hub_id is None else folder.name
    model = source.hub_id or source.name
    manifest = Manifest(model, source.revision or saved.MAIN, commit)
    place = to or place_of(model, commit)
    if to is None and saved.manifest_of(place) is not None:
        manifest.write(place)  # the same commit, perhaps under another name
        return _pulled(source, place, "nf4", new=False)
    tensors = stored(folder, source.name)
    half = unfinished(place)
    check_disks(source.name, [(place, packed_bytes(tensors) - bytes_in(half))])
    if place.is_dir():
        place.rmdir()  # it is empty, and is put in its place whole
    pack(folder, tensors, place, manifest, device, lambda done, of: tell("quantise", done, of))
    return _pulled(source, place, "nf4", new=True)


def _pulled(source: Source, folder: Path, quantize: str | None, *, new: bool) -> Pulled:
    size = sum(path.stat().st_size for path in weight_files(folder, source.name))
    return Pulled(source.name, folder, size, quantize, new)


def _holds(to: Path, source: Source) -> bool:
    """Whether a folder of the user's own is what an earlier pull of `source` saved there, whole.

    A repository is told by its commit. A folder here has none: its name and configuration must be
    the same, and nothing in it newer. Raises ModelError for one of which a file is missing.
    """
    made = saved.manifest_of(to)
    if made is None or missing_files(to, str(to)):
        return False
    if source.hub_id is not None:
        if made.model != source.hub_id:
            return False
        return made.of_hub(source.hub_id, source.revision, _commit_now(source))
    if source.folder is None:
        return False
    spelt_otherwise = os.path.realpath(made.model) == os.path.realpath(source.folder)
    if made.model != source.name and not spelt_otherwise:
        return False
    folder = complete(source.folder, source.name)
    before, now = read_json(to / CONFIG, str(to)), read_json(folder / CONFIG, source.name)
    before.pop("quantization_config", None)
    files = [folder / CONFIG, *weight_files(folder, source.name)]
    newest = max(path.stat().st_mtime for path in files)
    return before == now and newest <= (to / saved.MANIFEST).stat().st_mtime


def _commit_now(source: Source) -> str | None:
    """Of the revision, by the hub, or by the cache where the hub says nothing."""
    try:
        every = listing(source, None)
    except ModelError:
        here = cached(source)
        return None if here is None else here.name
    return every[0].commit_hash if every else None


def _check_folder(to: Path | None, name: str, *, nf4: bool) -> None:
    """Raises SettingError for a place that is a file, or where something else would be mixed in."""
    if to is None or not os.path.lexists(to):
        return
    if not to.is_dir():
        raise SettingError(f"--to {to}: is a file; give a folder that does not exist yet")
    if nf4 and (made := saved.manifest_of(to)) is not None:
        raise SettingError(
            f"--to {to}: holds {made.model}, and not, or not wholly, what {name} is now; give a "
            "folder that does not exist yet"
        )
    if nf4 and any(to.iterdir()):
        raise SettingError(f"--to {to}: is not empty; give a folder that does not exist yet")
