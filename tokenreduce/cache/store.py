"""Visual tokens on disk by what they were made from; knows neither how, nor what they are for.

The files are the truth: each says what it is and proves that it is whole (see `head`). The index
beside them only remembers the order of use and files' digests. Whatever goes wrong with the folder,
no call raises: it does without, and `Cache.trouble` says so once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .digest import FileState
from .folder import Folder
from .head import Unsound, canonical, name_of, prefix_of
from .index import Index, Unusable

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

FOLDER_VARIABLE = "TOKENREDUCE_CACHE"
DEFAULT_MAX_BYTES = 10 << 30


def default_folder(environ: Mapping[str, str]) -> Path:
    """TOKENREDUCE_CACHE, or this user's folder for caches. Neither need exist."""
    if named := environ.get(FOLDER_VARIABLE):
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("tokenreduce")


@dataclass(frozen=True)
class Entry:
    """What an entry says of itself; its tensors are read and checked by `Cache.load`.

    family, variant, facts  as they were saved, tuples as lists
    shapes                  of its tensors
    size_bytes              of the file
    saved_seconds           since 1970, by the clock of then
    """

    name: str
    family: Mapping[str, Any]
    variant: Mapping[str, Any]
    facts: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    size_bytes: int
    saved_seconds: float

    @property
    def tokens(self) -> int:
        return self.shapes["x"][1]

    def text(self, fact: str) -> str | None:
        """A fact, if it is there and text."""
        value = self.facts.get(fact)
        return value if isinstance(value, str) else None


class Loaded(NamedTuple):
    tensors: dict[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Freed:
    entries: int
    size_bytes: int


class Cache:
    """Entries in `folder`, which is made when something is first saved. Also a `digest.Memo`.

    max_bytes: what all entries may take together; the least recently used ones go first.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._inner = Folder(folder)
        self._index = Index(self._inner.path / "index.sqlite")
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """The first thing that went wrong, as in: 'cannot be written: No space left on device'."""
        return self._fault

    @property
    def trouble(self) -> str | None:
        """The same as a warning of one line; None while nothing went wrong."""
        if self._fault is None:
            return None
        return (
            f"the cache in {self.folder} {self._fault}; going on without it; "
            f"{FOLDER_VARIABLE} names another folder"
        )

    def lookup(self, family: Mapping[str, object]) -> tuple[Entry, ...]:
        """The whole entries of `family`, the last saved first. Others of its names are deleted.

        Raises ValueError or TypeError if JSON cannot say `family`.
        """
        return self._entries(prefix_of(family))

    def entries(self) -> tuple[Entry, ...]:
        """All whole entries, the last saved first."""
        return self._entries("")

    def load(self, entry: Entry) -> Loaded | None:
        """Its tensors on the CPU and its facts, once every byte is checked. None if it is gone,
        has become another one or is damaged; a damaged one is deleted."""
        from . import tensors

        try:
            with self._inner.opened(entry.name) as (file, head):
                loaded = Loaded(tensors.read(file, head), head.facts)
        except (Unsound, FileNotFoundError):
            return None
        except OSError as error:
            self._without("read", error)
            return None
        self._indexed(lambda: self._index.use(entry.name))
        return loaded

    def save(
        self,
        family: Mapping[str, object],
        variant: Mapping[str, object],
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, object],
    ) -> None:
        """Keeps x (1, n, d), size (1, n) and place (1, n), and any other tensors beside them.

        facts: what else JSON can say; `file` and `model`, if text, are shown by `cache ls`.
        Nothing is kept of tensors that are not visual tokens (see `tensors.check`) or larger than
        max_bytes. Raises ValueError or TypeError if JSON cannot say a mapping, NaN included, or a
        tensor's dtype is not kept.
        """
        from . import tensors as written

        name = name_of(family, variant)
        size_bytes = written.size_of(tensors) + len(canonical(facts))
        try:
            written.check(tensors)
        except Unsound:
            return
        if size_bytes > self.max_bytes:
            return
        try:
            self._inner.make()
            with self._inner.unfinished(name) as (file, finish):
                written.write(file, family, variant, facts, tensors)
                # Before it can be seen, or a pruner takes it for one that was never used.
                self._indexed(lambda: self._index.use(name))
                finish()
        except OSError as error:
            self._without("written", error)
            return
        self.prune()

    def prune(self, max_bytes: int | None = None) -> Freed:
        """Deletes the least recently used entries until the rest takes at most `max_bytes`, by
        default the cache's own; and what writers that were killed left an hour ago."""
        limit = self.max_bytes if max_bytes is None else max_bytes
        gone: dict[str, int] = {}
        try:
            files = self._inner.files()
            total = sum(status.st_size for _, status in files)
            turns = self._indexed(self._index.turns) or {} if files and total > limit else {}
            files.sort(key=lambda pair: (turns.get(pair[0], 0), pair[1].st_mtime_ns))
            for name, status in files:
                if total <= limit:
                    break
                if self._inner.delete(name):
                    gone[name] = status.st_size
                total -= status.st_size
            self._inner.sweep()
        except OSError as error:
            self._without("written", error)
        if gone:
            self._indexed(lambda: self._index.forget(list(gone)))
        return Freed(len(gone), sum(gone.values()))

    def clear(self) -> Freed:
        """Deletes every entry and forgets every digest."""
        freed = self.prune(-1)
        if os.path.isdir(self._inner.path):
            self._indexed(self._index.empty)
        return freed

    def recall(self, state: FileState) -> str | None:
        if not os.path.isdir(self._inner.path):  # no folder: nothing to recall
            return None
        return self._indexed(lambda: self._index.recall(state))

    def remember(self, state: FileState, value: str) -> None:
        try:
            self._inner.make()
        except OSError as error:
            self._without("written", error)
            return
        self._indexed(lambda: self._index.remember(state, value))

    def _entries(self, prefix: str) -> tuple[Entry, ...]:
        found: list[Entry] = []
        try:
            names = [name for name, _ in self._inner.files() if name.startswith(prefix)]
        except OSError as error:
            self._without("read", error)
            return ()
        for name in names:
            try:
                found.append(self._entry(name))
            except (Unsound, FileNotFoundError):
                pass
            except OSError as error:
                self._without("read", error)
        return tuple(sorted(found, key=lambda entry: entry.saved_seconds, reverse=True))

    def _entry(self, name: str) -> Entry:
        with self._inner.opened(name) as (file, head):
            status = os.fstat(file.fileno())
        shapes = {tensor: laid.shape for tensor, laid in head.tensors.items()}
        saved = (status.st_size, status.st_mtime)
        return Entry(name, head.family, head.variant, head.facts, shapes, *saved)

    def _indexed(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Unusable as error:
            self._without("indexed", error)
            return None

    def _without(self, what: str, error: Exception) -> None:
        if self._fault is None:
            self._fault = f"cannot be {what}: {getattr(error, 'strerror', None) or error}"
