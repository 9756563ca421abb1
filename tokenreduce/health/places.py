"""Looks at files and folders: the cache of visual tokens, and the model's weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenreduce.errors import TokenReduceError
from tokenreduce.health.finding import Asked, Finding, of_error, size

_LITTLE_BYTES = 1 << 30


def cache(asked: Asked) -> Iterator[Finding]:
    """Where it lies, what it takes, and whether it can be written."""
    from tokenreduce.cache.folder import Folder
    from tokenreduce.cache.store import FOLDER_VARIABLE, default_folder

    place = default_folder(os.environ)
    mend = f"questions are answered without it; {FOLDER_VARIABLE} names another folder"
    try:
        held = sum(state.st_size for _, state in Folder(place).files())
        _try_to_write(_nearest(place))
        free = shutil.disk_usage(_nearest(place)).free
    except OSError as error:
        reason = error.strerror or str(error)
        yield Finding("cache", "warning", f"{place}: cannot be used ({reason}): {mend}")
        return
    text = f"{place}: {size(held)} kept, {size(free)} free on its disk"
    if free < _LITTLE_BYTES:
        yield Finding("cache", "warning", f"{text}: little; see `tokenreduce cache prune`")
    else:
        yield Finding("cache", "ok", text)


def model(asked: Asked) -> Iterator[Finding]:
    """Whether the weights are here, whole, and what the configuration says. Never downloads.

    Compares every tensor's header, which takes torch; without it, the files alone.
    """
    from tokenreduce.models.files import weight_files
    from tokenreduce.models.locate import complete_here, resolve, saved_folder

    try:
        source = resolve(asked.model, asked.revision)
        folder = complete_here(source)
        if folder is None:
            yield _absent(asked)
            return
        packed = saved_folder(source)
        count = sum(path.stat().st_size for path in weight_files(folder, source.name))
    except (TokenReduceError, OSError) as error:
        yield of_error("model", error)
        return
    text = f"{asked.model}: {count / 1e9:.2f} GB, whole"
    if packed is not None:
        text += ", in NF4 alone" if packed == folder else f", with a copy in NF4 in {packed}"
    try:
        from tokenreduce.models.load import check
    except Exception as error:  # torch or transformers is broken, and has a line of its own
        yield Finding("model", "warning", f"{text}; tensors not compared ({type(error).__name__})")
        return
    try:
        check(asked.model, asked.revision)
    except TokenReduceError as error:
        yield of_error("model", error)
        return
    yield Finding("model", "ok", f"{text}, every tensor as its configuration says")


def _absent(asked: Asked) -> Finding:
    """Not, or not wholly, here: how to have it, and whether the disk has room for it."""
    from huggingface_hub import constants

    from tokenreduce.models.aliases import ALIASES
    from tokenreduce.models.files import missing_files
    from tokenreduce.models.locate import cached, resolve

    source = resolve(asked.model, asked.revision)
    folder = cached(source)
    missing = [] if folder is None else missing_files(folder, source.name)
    text = f"{asked.model}: " + (
        f"incomplete, {len(missing)} files are missing" if missing else "not on this machine"
    )
    whole = {one.hub_id: one.download_bytes for one in ALIASES.values()}.get(source.hub_id, 0)
    text += f" (about {whole / 1e9:.0f} GB)" if whole else ""
    text += f": run `tokenreduce models pull {asked.model}`"
    place = Path(constants.HF_HUB_CACHE)
    try:
        free = shutil.disk_usage(_nearest(place)).free
    except OSError:
        free = whole
    if free < whole:
        text += f", once {place} has room: {free / 1e9:.1f} GB are free"
    if asked.offline:
        text += ", without HF_HUB_OFFLINE"
    return Finding("model", "problem" if asked.offline else "warning", text)


def _nearest(place: Path) -> Path:
    """The folder, or the one in which it would be made."""
    return next(one for one in (place, *place.absolute().parents) if one.exists())


def _try_to_write(folder: Path) -> None:
    """Raises OSError. Permissions alone do not tell, of a full disk or one that is read-only."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
