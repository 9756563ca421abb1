"""From a name to a folder of files: an alias, a local folder, or a repository of the hub.

What the cache holds complete is used as it is, without asking the network. Knows nothing about
what the weights mean; imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from tokenreduce.errors import ModelError, SettingError
from tokenreduce.models import saved
from tokenreduce.models.aliases import ALIASES, DEMO
from tokenreduce.models.families import family_of
from tokenreduce.models.files import (
    CONFIG,
    PREPROCESSOR,
    complete,
    existing,
    missing_files,
    read_json,
    weight_files,
)
from tokenreduce.models.spec import ModelSpec

# No pickle and no Python: neither is ever asked for, so neither can be run.
WANTED = ["*.json", "*.safetensors", "merges.txt"]


@dataclass(frozen=True)
class Source:
    """Where a checkpoint comes from: a folder here, or a repository of the hub at a revision.

    name     what the user is told, and what results carry
    offline  nothing is downloaded, whatever is missing
    """

    name: str
    folder: Path | None
    hub_id: str | None
    revision: str | None = None
    offline: bool = False


def resolve(name: str, revision: str | None = None, *, offline: bool = False) -> Source:
    """What `name` stands for: an alias, a local folder, or a hub id with or without @revision.

    Raises SettingError if it is none of these, or if a revision is given twice or for a folder.
    """
    if not name.strip() or "\0" in name:
        raise SettingError(_unknown(name))
    alias = ALIASES.get(name.lower())
    if alias is not None and alias.hub_id is None:
        return _local(DEMO, Path(str(files("tokenreduce.demo"))) / "checkpoint", revision)
    path = Path(os.path.expanduser(name))
    if alias is None and (os.path.exists(path) or _looks_local(name)):
        return _local(name, path, revision)
    base, _, tagged = name.partition("@")
    alias = alias or ALIASES.get(base.lower())
    if tagged and revision and tagged != revision:
        raise SettingError(f"{name} with revision {revision}: two revisions; give one")
    hub_id = alias.hub_id if alias else base
    if hub_id is None or not _is_hub_id(hub_id):
        raise SettingError(_unknown(name))
    chosen = tagged or revision
    shown = f"{hub_id}@{chosen}" if chosen else hub_id
    return Source(shown, None, hub_id, chosen, offline)


def read_spec(name: str, revision: str | None = None, *, offline: bool = False) -> ModelSpec:
    """The ModelSpec of a checkpoint from its configuration alone: no weights, no torch.

    Of a repository that is not cached only two small files are downloaded. Raises SettingError for
    a name that stands for nothing, ModelError for a configuration that cannot be had or used.
    """
    source = resolve(name, revision, offline=offline)
    return spec_in(config_folder(source), source.name)


def spec_in(folder: Path, name: str) -> ModelSpec:
    """The ModelSpec of the checkpoint in `folder`. Raises ModelError."""
    config = read_json(folder / CONFIG, name)
    preprocessor = folder / PREPROCESSOR
    return family_of(name, config).read_spec(
        name, config, read_json(preprocessor, name) if os.path.exists(preprocessor) else {}
    )


def config_folder(source: Source) -> Path:
    """The folder whose config.json describes `source`; downloads no more than the two configs."""
    if source.folder is not None:
        return existing(source.folder, source.name)
    return cached(source) or saved_folder(source) or download(source, [CONFIG, PREPROCESSOR])


def complete_here(source: Source, *, quantised: bool | None = None) -> Path | None:
    """The folder of `source` if it needs no download: a local one, all of it in the cache, or saved
    quantised, which is asked for as in `fetching.weights_folder`.

    Raises ModelError if a file of a local folder is missing, or cannot be read.
    """
    if source.folder is not None:
        return complete(source.folder, source.name)
    packed = None if quantised is False else saved_folder(source)
    if packed is not None and quantised:
        return complete(packed, source.name)
    folder = cached(source)
    if folder is None or missing_files(folder, source.name):
        folder = packed
    return None if folder is None else complete(folder, source.name)


def saved_folder(source: Source) -> Path | None:
    """The NF4 weights that `models pull --nf4` saved of this revision, or None."""
    if source.hub_id is None:
        return None
    here = cached(source)
    return saved.find(source.hub_id, source.revision, None if here is None else here.name)


def cached(source: Source) -> Path | None:
    """The snapshot of `source` in the hub's cache, complete or not, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.hub_id or "", CONFIG, revision=source.revision)
    return Path(found).parent if isinstance(found, str) else None


def cached_bytes(source: Source) -> int | None:
    """Size in bytes of the weights of `source` if all of them are here, else None."""
    folder = source.folder or cached(source)
    if folder is None or not os.path.isdir(folder):
        return None
    try:
        if missing_files(folder, source.name):
            return None
        return sum(path.stat().st_size for path in weight_files(folder, source.name))
    except (ModelError, OSError):
        return None


def _local(name: str, folder: Path, revision: str | None) -> Source:
    if revision:
        raise SettingError(f"{name} with revision {revision}: a local folder has no revisions")
    return Source(name, folder, None)


def cache_of(source: Source) -> Path:
    """The hub's folder for a repository, be it there or not."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{str(source.hub_id).replace('/', '--')}"


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~", os.sep)) or name.count("/") > 1 or name.endswith("/")


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # lazy

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _unknown(name: str) -> str:
    close = get_close_matches(name.lower(), ALIASES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"aliases: {', '.join(ALIASES)}."
    return f"no model is called {name!r}; {hint} A folder or a hub id (owner/name) works too"


def download(source: Source, patterns: Sequence[str], to: Path | None = None) -> Path:
    """The snapshot folder of `source` with the files of `patterns`; resumes what was begun.

    to: a folder of one's own instead of the hub's cache. Raises ModelError, see `hub_errors`.
    """
    from huggingface_hub import constants, snapshot_download

    cache = constants.HF_HUB_CACHE if to is None else str(to)
    refuse_offline(source, cache)
    with hub_errors(source.name, cache):
        folder = snapshot_download(
            str(source.hub_id),
            revision=source.revision,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"],
            local_dir=to,
        )
    return Path(folder)


def refuse_offline(source: Source, cache: str | Path) -> None:
    """Raises ModelError where nothing may be downloaded."""
    from huggingface_hub import constants

    if source.offline or constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{source.name}: not, or not wholly, in {cache}, and offline mode is set; run "
            f"`tokenreduce models pull {source.name}` while online, or give a folder"
        )


@contextmanager
def hub_errors(name: str, cache: str) -> Iterator[None]:
    """Whatever asking the hub raises is a ModelError of one line. cache: where a download goes."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise ModelError(f"{name}: gated; accept its terms on the hub and log in") from None
    except RevisionNotFoundError:
        raise ModelError(f"{name}: the repository has no such revision") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{name}: no such repository on the hub, or it is private") from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{name}: not, or not wholly, in {cache}, and the hub cannot be reached; try again or "
            "give a folder"
        ) from None
    except Exception as error:
        # The hub's client raises errors of its own, of httpx or httpx2 and of its transfer library.
        what = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise ModelError(f"{name}: cannot be downloaded into {cache}: {what}") from error
