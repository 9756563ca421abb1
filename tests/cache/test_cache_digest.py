"""A file's digest: of all of it, once, and never of what it no longer holds."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenreduce.cache import digest
from tokenreduce.cache.digest import BLOCK_BYTES, Digest, FileState
from tokenreduce.cache.store import Cache


def _later() -> int:
    """A clock by which nothing was changed lately."""
    return time.time_ns() + 10_000_000_000


class Remembered:
    """A memo of its own that can be told to do something while a file is being read."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.known: dict[FileState, str] = {}
        self._meanwhile = meanwhile

    def recall(self, state: FileState) -> str | None:
        self._meanwhile()
        return self.known.get(state)

    def remember(self, state: FileState, value: str) -> None:
        self.known[state] = value


def _reference(data: bytes) -> str:
    leaves = b"".join(
        hashlib.blake2b(
            data[at : at + BLOCK_BYTES], digest_size=32, person=b"tokenreduce leaf"
        ).digest()
        for at in range(0, len(data), BLOCK_BYTES)
    )
    whole = leaves + len(data).to_bytes(8, "little")
    return hashlib.blake2b(whole, digest_size=32, person=b"tokenreduce root").hexdigest()


@pytest.mark.parametrize(
    "length", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 23 * BLOCK_BYTES + 7]
)
def test_it_is_the_tree_over_all_bytes(tmp_path: Path, length: int) -> None:
    data = random.Random(length).randbytes(length)
    path = tmp_path / "file"
    path.write_bytes(data)
    found = digest.of_file(path)
    assert found is not None
    assert found.value == digest.of_bytes(memoryview(data)) == _reference(data)


def test_every_byte_counts(tmp_path: Path) -> None:
    data = bytearray(3 * BLOCK_BYTES)
    values = {digest.of_bytes(memoryview(data))}
    for at in (0, BLOCK_BYTES - 1, BLOCK_BYTES, len(data) - 1):
        data[at] ^= 1
        values.add(digest.of_bytes(memoryview(data)))
        data[at] ^= 1
    values.add(digest.of_bytes(memoryview(data)[:-1]))
    assert len(values) == 6


def test_a_second_time_the_file_is_not_read(tmp_path: Path, cache: Cache) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    first = digest.of_file(path, cache, clock_ns=_later)
    again = digest.of_file(tmp_path / "file", Cache(cache.folder), clock_ns=_later)
    assert first is not None
    assert again == Digest(first.value, first.state, memoised=True, fresh=False)
    assert not first.memoised
    assert digest.unchanged(path, again)


def test_the_memo_is_of_this_very_state(tmp_path: Path, cache: Cache) -> None:
    """Another content of the same length under the same mtime is read again."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = digest.of_file(path, cache, clock_ns=_later)
    before = path.stat()
    time.sleep(0.02)
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = digest.of_file(path, cache, clock_ns=_later)
    assert first is not None
    assert second is not None
    assert second.state.mtime_ns == first.state.mtime_ns
    assert (second.memoised, second.value) == (False, _reference(b"two"))
    assert not digest.unchanged(path, first)


@pytest.mark.parametrize("ahead_ns", [0, 1_900_000_000, -3_600_000_000_000])
def test_a_fresh_file_is_not_remembered(tmp_path: Path, ahead_ns: int) -> None:
    """Changed just now, or, as after the clock was set back, in the future."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    changed = path.stat().st_ctime_ns
    memo = Remembered()
    found = digest.of_file(path, memo, clock_ns=lambda: changed + ahead_ns)
    assert found is not None
    assert found.fresh
    assert memo.known == {}


def test_times_prove_nothing_of_a_fresh_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    state = FileState.of(path.stat())
    assert digest.unchanged(path, Digest(_reference(b"content"), state, False, fresh=True))
    assert not digest.unchanged(path, Digest(_reference(b"CONTENT"), state, False, fresh=True))
    path.unlink()
    assert not digest.unchanged(path, Digest(_reference(b"content"), state, False, fresh=False))


def test_a_file_that_changes_once_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    changes = [b"more"]

    def change() -> None:
        if changes:
            with path.open("ab") as file:
                file.write(changes.pop())

    found = digest.of_file(path, Remembered(change), clock_ns=_later)
    assert found is not None
    assert found.value == _reference(b"contentmore")


def test_a_file_that_keeps_changing_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    memo = Remembered(grow)
    assert digest.of_file(path, memo, clock_ns=_later) is None
    assert memo.known == {}


def test_a_file_that_is_replaced_meanwhile_is_the_new_one(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"content")
    other.write_bytes(b"another")

    def replace() -> None:
        if other.exists():
            other.replace(path)

    found = digest.of_file(path, Remembered(replace), clock_ns=_later)
    assert found is not None
    assert found.value == _reference(b"another")


def test_what_is_no_regular_file_has_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opened as usual it would wait for a writer
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent", Path("/dev/zero")):
        assert digest.of_file(path) is None


def test_a_memo_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    broken = Cache(path / "cache")  # a file is no folder
    found = digest.of_file(path, broken, clock_ns=_later)
    assert found is not None
    assert found.value == _reference(b"content")
    assert broken.trouble is not None
