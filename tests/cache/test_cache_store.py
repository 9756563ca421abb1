"""What stays when there is no room, and what becomes of a folder that cannot be used."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenreduce.cache.digest import FileState
from tokenreduce.cache.store import DEFAULT_MAX_BYTES, Cache, Freed, default_folder

Visual = Callable[..., dict[str, Tensor]]


def _save(cache: Cache, visual: Visual, *budgets: int) -> None:
    for budget in budgets:
        cache.save({}, {"budget": budget}, visual(50, 8), {})


def _budgets(cache: Cache) -> set[int]:
    return {entry.variant["budget"] for entry in cache.lookup({})}


def _size(cache: Cache) -> int:
    return max(entry.size_bytes for entry in cache.entries())


def test_lookup_lists_a_family_and_no_other(cache: Cache, visual: Visual) -> None:
    for seed in (0, 1):
        for budget in (5, 6):
            cache.save({"seed": seed}, {"budget": budget}, visual(budget), {"seed": seed})
    found = cache.lookup({"seed": 1})
    assert {(one.tokens, one.facts["seed"]) for one in found} == {(5, 1), (6, 1)}
    assert cache.lookup({"seed": 2}) == ()
    assert len(cache.entries()) == 4


def test_the_last_one_saved_under_a_key_counts(cache: Cache, visual: Visual) -> None:
    for n in (3, 4):
        cache.save({}, {"budget": 9}, visual(n), {"n": n})
    (entry,) = cache.lookup({})
    assert (entry.tokens, entry.facts) == (4, {"n": 4})


def test_looking_makes_no_folder(cache: Cache) -> None:
    assert cache.lookup({}) == cache.entries() == ()
    assert cache.prune() == cache.clear() == Freed(0, 0)
    assert cache.recall(FileState(1, 2, 3, 4, 5)) is None
    assert not cache.folder.exists()
    assert cache.trouble is None


def test_what_was_used_longest_ago_goes_first(cache: Cache, visual: Visual) -> None:
    _save(cache, visual, 1, 2, 3)
    cache.max_bytes = 3 * _size(cache)
    for entry in cache.lookup({}):
        if entry.variant["budget"] == 1:
            assert cache.load(entry) is not None
    _save(cache, visual, 4)
    assert _budgets(cache) == {1, 3, 4}
    _save(cache, visual, 5, 6)
    assert _budgets(cache) == {4, 5, 6}


def test_order_of_use_does_not_hang_on_the_clock(cache: Cache, visual: Visual, inner: Path) -> None:
    """The first was saved while the clock was a century ahead, the last in 1970."""
    _save(cache, visual, 1, 2, 3)
    for entry in cache.lookup({}):
        stamp = {1: time.time() + 3e9, 2: time.time(), 3: 0.0}[entry.variant["budget"]]
        os.utime(inner / entry.name, (stamp, stamp))
    cache.prune(2 * _size(cache))
    assert _budgets(cache) == {2, 3}


def test_without_an_index_the_oldest_goes_first(cache: Cache, visual: Visual, inner: Path) -> None:
    _save(cache, visual, 1, 2, 3)
    for entry in cache.lookup({}):
        stamp = 1000.0 * (10 - entry.variant["budget"])
        os.utime(inner / entry.name, (stamp, stamp))
    (inner / "index.sqlite").unlink()
    cache.prune(2 * _size(cache))
    assert _budgets(cache) == {1, 2}
    assert cache.trouble is None


def test_pruning_says_what_it_freed(cache: Cache, visual: Visual) -> None:
    _save(cache, visual, 1, 2, 3)
    size = _size(cache)
    assert cache.prune() == Freed(0, 0)
    assert cache.prune(size) == Freed(2, 2 * size)
    assert cache.clear() == Freed(1, size)
    assert cache.entries() == ()


def test_clearing_forgets_digests(cache: Cache) -> None:
    state = FileState(1, 2, 3, 4, 5)
    cache.remember(state, "d")
    assert cache.recall(state) == "d"
    cache.clear()
    assert cache.recall(state) is None


def test_what_is_larger_than_all_room_is_not_kept(cache: Cache, visual: Visual) -> None:
    _save(cache, visual, 1)
    cache.max_bytes = _size(cache)
    cache.save({}, {"budget": 2}, visual(500, 8), {})
    assert _budgets(cache) == {1}


def test_whatever_else_lies_there_is_left_alone(cache: Cache, visual: Visual, inner: Path) -> None:
    _save(cache, visual, 1)
    (entry,) = cache.entries()
    mine = [inner / "notes.txt", inner / "model.safetensors", cache.folder / entry.name]
    for path in mine:
        path.write_text("mine")
    (inner / f"{'0' * 32}-{'0' * 32}.safetensors").mkdir()
    assert cache.clear().entries == 1
    assert all(path.read_text() == "mine" for path in mine)
    assert cache.trouble is None


def test_unfinished_files_go_an_hour_later(cache: Cache, visual: Visual, inner: Path) -> None:
    _save(cache, visual, 1)
    now = time.time()
    for name, stamp in {"new": now, "old": now - 4000, "future": now + 4000}.items():
        (inner / f"{name}.part").touch()
        os.utime(inner / f"{name}.part", (stamp, stamp))
    cache.prune()
    assert {path.name for path in inner.glob("*.part")} == {"new.part"}


@pytest.mark.parametrize("kind", ["a file", "below a file", "no such system", "no name"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, visual: Visual, kind: str) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    folder = {
        "a file": taken,
        "below a file": taken / "cache",
        "no such system": Path("/proc/cache"),
        "no name": tmp_path / ("x" * 300),
    }[kind]
    cache = Cache(folder)
    assert cache.lookup({}) == ()
    cache.remember(FileState(1, 2, 3, 4, 5), "d")
    _save(cache, visual, 1, 2)
    first = cache.trouble
    assert cache.lookup({}) == ()
    assert cache.prune(0) == cache.clear() == Freed(0, 0)
    assert cache.recall(FileState(1, 2, 3, 4, 5)) is None
    assert first is not None
    assert cache.trouble == first
    assert first.startswith(f"the cache in {folder} cannot be ")
    assert "\n" not in first


@contextmanager
def _files_of_at_most(size_bytes: int) -> Iterator[None]:
    """As a full disk, but for the error's number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size_bytes", [0, 100, 1 << 16])
def test_a_disk_that_is_full(cache: Cache, visual: Visual, inner: Path, size_bytes: int) -> None:
    _save(cache, visual, 1)
    with _files_of_at_most(size_bytes):
        cache.save({}, {"budget": 2}, visual(5000, 64), {})
    assert cache.trouble is not None
    assert "cannot be " in cache.trouble
    assert _budgets(cache) == {1}
    assert list(inner.glob("*.part")) == []
    _save(cache, visual, 3)  # there is room again
    assert _budgets(cache) == {1, 3}


def test_a_full_disk_from_the_beginning(cache: Cache, visual: Visual) -> None:
    with _files_of_at_most(0):
        cache.remember(FileState(1, 2, 3, 4, 5), "d")
        _save(cache, visual, 1)
        assert cache.recall(FileState(1, 2, 3, 4, 5)) is None
        assert cache.lookup({}) == ()
    assert cache.trouble is not None


def test_a_read_only_folder_is_still_read(
    cache: Cache, visual: Visual, inner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission bits do not bind root, so the refusals are put in the way."""
    _save(cache, visual, 1)
    (inner / "index.sqlite").unlink()
    (inner / "index.sqlite").mkdir()  # cannot be opened
    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    reader = Cache(cache.folder)
    (entry,) = reader.lookup({})
    assert reader.trouble is None
    loaded = reader.load(entry)
    assert loaded is not None
    assert torch.equal(loaded.tensors["x"], visual(50, 8)["x"])
    writer = Cache(cache.folder)
    _save(writer, visual, 2)
    assert writer.trouble is not None
    assert "cannot be written: Read-only file system" in writer.trouble
    assert _budgets(writer) == {1}


def test_an_entry_that_cannot_be_read_hides_no_other(
    cache: Cache, visual: Visual, inner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    _save(cache, visual, 1, 2)
    bad = next(one for one in cache.lookup({}) if one.variant["budget"] == 1)
    opened = builtins.open

    def faulty(path: Any, *rest: Any, **options: Any) -> Any:
        if str(path).endswith(bad.name):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return opened(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", faulty)
    assert _budgets(cache) == {2}
    assert cache.load(bad) is None
    assert cache.trouble is not None
    assert "cannot be read: Input/output error" in cache.trouble


def test_a_folder_that_vanishes_is_made_again(cache: Cache, visual: Visual) -> None:
    import shutil

    _save(cache, visual, 1)
    (entry,) = cache.lookup({})
    shutil.rmtree(cache.folder)
    assert cache.load(entry) is None
    assert cache.lookup({}) == ()
    _save(cache, visual, 2)
    assert _budgets(cache) == {2}
    assert cache.trouble is None


def test_the_variable_names_the_folder() -> None:
    own = default_folder({})
    assert default_folder({"TOKENREDUCE_CACHE": "/else/where"}) == Path("/else/where")
    assert default_folder({"TOKENREDUCE_CACHE": ""}) == own
    assert "tokenreduce" in str(own)
    assert Cache(own).max_bytes == DEFAULT_MAX_BYTES == 10 * 2**30


def test_what_a_caller_gives_is_not_changed(cache: Cache, visual: Visual) -> None:
    facts: Mapping[str, Any] = {"seconds": (0.0, 1.0)}
    tensors = visual()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    cache.save({}, {}, tensors, facts)
    assert facts == {"seconds": (0.0, 1.0)}
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())
    assert cache.lookup({})[0].facts == {"seconds": [0.0, 1.0]}
