"""Downloads the files of a model from the hub, told of as they come; knows no family.

What can be refused is refused first: offline, a repository without weights, a disk without room.
What has come stays where it is interrupted, and the next download goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreduce.errors import ModelError
from tokenreduce.events import Advanced, Finished, Started, Warned, Watcher, ignore
from tokenreduce.models.aliases import ALIASES
from tokenreduce.models.disks import arriving, begun_bytes, check_disks
from tokenreduce.models.files import complete
from tokenreduce.models.locate import (
    WANTED,
    Source,
    cache_of,
    complete_here,
    download,
    hub_errors,
    refuse_offline,
)

if TYPE_CHECKING:
    from huggingface_hub import DryRunFileInfo

_MB = 10**6


def weights_folder(
    source: Source, on_event: Watcher = ignore, *, quantised: bool | None = None
) -> Path:
    """The folder with every file of `source`, downloaded if the cache lacks any of them.

    quantised: with True the NF4 weights saved of it come first, if there are any; with False they
    will not do; with None they do where the original is not here.

    A download is announced to `on_event` as a warning, since it can be many gigabytes, and then
    told of as the part "download", in MB. Raises ModelError if a file is missing, unreadable, or
    not to be had, and where the disk has no room.
    """
    folder = complete_here(source, quantised=quantised)
    return _fetched(source, on_event) if folder is None else folder


def _fetched(source: Source, on_event: Watcher) -> Path:
    cache = cache_of(source)
    refuse_offline(source, cache.parent)
    every = listing(source, None)
    missing = [one for one in every if one.will_download]
    size = size_of(source, every, missing)
    check_disks(source.name, [(cache, size - begun_bytes(cache))])
    about = f", {size / 1e9:.1f} GB" if size >= 1e8 else ""
    on_event(Warned(f"{source.name} is not in the cache: downloading it{about}"))
    on_event(Started("download", size // _MB or None))
    start = time.perf_counter()
    with arriving(cache, size, lambda done, _: on_event(Advanced("download", done // _MB))):
        fetch(source, missing, None)
        folder = download(source, WANTED)
    on_event(Finished("download", time.perf_counter() - start))
    return complete(folder, source.name)


def listing(source: Source, to: Path | None) -> list[DryRunFileInfo]:
    """The files that make up `source`, by the hub; also which of them are here. Raises
    ModelError."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, LocalEntryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"{source.name}: offline mode is set; unset HF_HUB_OFFLINE to pull it")
    with hub_errors(source.name, constants.HF_HUB_CACHE if to is None else str(to)):
        try:
            found = snapshot_download(
                str(source.hub_id),
                revision=source.revision,
                allow_patterns=WANTED,
                ignore_patterns=["*/*"],
                local_dir=to,
                dry_run=True,
            )
        except DryRunError as error:
            if isinstance(error.__cause__, HfHubHTTPError):  # gated, unknown, or the hub is ill
                raise error.__cause__ from None
            raise LocalEntryNotFoundError("no answer") from error
    if not any(one.filename.endswith(".safetensors") for one in found):
        raise ModelError(f"{source.name}: the repository holds no safetensors; give another model")
    return found


def fetch(source: Source, missing: Sequence[DryRunFileInfo], to: Path | None) -> None:
    """One file after another and in this thread, so that Ctrl-C ends it at once. Each file resumes
    where it was left."""
    from huggingface_hub import constants, hf_hub_download

    with hub_errors(source.name, constants.HF_HUB_CACHE if to is None else str(to)):
        for one in sorted(missing, key=lambda one: one.file_size or 0):
            hf_hub_download(
                str(source.hub_id), one.filename, revision=one.commit_hash, local_dir=to
            )


def size_of(
    source: Source, every: Sequence[DryRunFileInfo], missing: Sequence[DryRunFileInfo]
) -> int:
    """Bytes to be downloaded: as the hub says, or what is known of the alias."""
    sizes = [one.file_size for one in missing]
    if all(size is not None for size in sizes):
        return sum(size or 0 for size in sizes)
    known = {a.hub_id: a.download_bytes for a in ALIASES.values()}.get(source.hub_id, 0)
    return max(0, known - sum(one.file_size or 0 for one in every if one not in missing))
