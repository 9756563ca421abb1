"""Tensors in safetensors files: told from the headers, and read one at a time when they are used.

Knows neither models nor what a tensor is for. A tensor that is read is a map of its file: its pages
are the system's to drop, and it holds the file open no longer than it lives itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import EllipsisType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenreduce.errors import ModelError


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, under the name it has there. dtype: as safetensors writes it, "BF16"."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str = "F32"


def stored_in(paths: Sequence[Path]) -> Iterator[Stored]:
    """All tensors, from the files' headers. Raises ModelError for a damaged file, and for a tensor
    that stands in two."""
    seen: set[str] = set()
    for path in paths:
        with opened(path) as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                piece = file.get_slice(key)
                if key in seen:
                    raise ModelError(f"{path}: holds {key} once more; remove stale files")
                seen.add(key)
                yield Stored(path, key, tuple(piece.get_shape()), piece.get_dtype())


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, for reading. Raises ModelError where it is not whole."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({error})") from error


@dataclass
class Files:
    """Hands out tensors of several files and keeps one file open, the last one asked for.

    Names sort much as shards do, so each is opened a few times; and the pages of a shard that has
    been read leave the process with it, unless a tensor of it is still in use.
    """

    _lock: Lock = field(default_factory=Lock)  # transformers reads in threads
    _path: Path | None = None
    _file: Any = None

    def read(self, one: Stored) -> Tensor:
        with self._lock:
            if self._path != one.path:
                self._file, self._path = None, None
                self._file = safe_open(one.path, "pt")
                self._path = one.path
            tensor: Tensor = self._file.get_tensor(one.key)
        return tensor


@dataclass(frozen=True)
class Later:
    """A tensor that has not been read, as transformers takes it: `[...]` reads it.

    dtype   which it is given, if any
    copied  it is no map of its file, which it would keep open, with all pages that were read of it
    """

    files: Files
    stored: Stored
    dtype: torch.dtype | None = None
    copied: bool = False

    def __getitem__(self, all_of_it: EllipsisType) -> Tensor:
        tensor = self.files.read(self.stored)
        return tensor.to(self.dtype or tensor.dtype, copy=self.copied)

    def get_dtype(self) -> str:
        return self.stored.dtype

    def get_shape(self) -> list[int]:
        return list(self.stored.shape)


def later(
    stored: Mapping[str, Stored],
    dtypes: Mapping[str, torch.dtype] | None = None,
    copied: Collection[str] = (),
) -> dict[str, Later]:
    """Every tensor under the same name, none of them read. dtypes: of those that get another;
    copied: names of those that are not to be maps."""
    files, others = Files(), dtypes or {}
    return {
        name: Later(files, one, others.get(name), name in copied) for name, one in stored.items()
    }
