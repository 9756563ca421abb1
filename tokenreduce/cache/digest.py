"""Digests of whole files, computed once; knows neither what the files are nor where it is kept.

A digest is the root of a two-level BLAKE2b tree over blocks of 2 MiB, so that the blocks can be
digested on several cores while the file is being read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from typing import Protocol

BLOCK_BYTES = 2 << 20
"""Part of what a digest means: another block size gives other digests."""

_FRESH_NS = 2_000_000_000
"""The coarsest clock of a file system still in use, FAT's."""


@dataclass(frozen=True)
class FileState:
    """What tells, without reading it, that a file is still the same; times in ns since 1970."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    @property
    def changed_ns(self) -> int:
        """The last change. ctime, which nobody can set back; on Windows it is the creation."""
        return self.mtime_ns if sys.platform == "win32" else self.ctime_ns


class Memo(Protocol):
    """Remembers digests between runs. Neither call raises; either may do nothing."""

    def recall(self, state: FileState, /) -> str | None: ...

    def remember(self, state: FileState, value: str, /) -> None: ...


@dataclass(frozen=True)
class Digest:
    """A file's content at one moment.

    value     64 hexadecimal digits
    memoised  it was remembered, and the file was not read
    fresh     the file was changed within the 2 s before it was read: a further change might leave
              its times as they are, so they prove nothing and are not remembered
    """

    value: str
    state: FileState
    memoised: bool
    fresh: bool


def of_file(
    path: str | os.PathLike[str],
    memo: Memo | None = None,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Digest | None:
    """Digest of the whole regular file at `path`. None if it cannot be read, is no regular file,
    or changed in each of two readings: then nothing about it may be cached."""
    try:
        for _ in range(2):
            found = _read_once(path, memo, clock_ns)
            if found is not None and FileState.of(os.stat(path)) == found.state:
                if memo is not None and not (found.memoised or found.fresh):
                    memo.remember(found.state, found.value)
                return found
    except OSError:
        return None
    return None


def unchanged(
    path: str | os.PathLike[str],
    digest: Digest,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
) -> bool:
    """Whether `path` still holds what was digested: to be asked after decoding and before saving.

    Costs one stat; only where the digest was fresh is the file read again.
    """
    try:
        if FileState.of(os.stat(path)) != digest.state:
            return False
    except OSError:
        return False
    if not digest.fresh:
        return True
    again = of_file(path, clock_ns=clock_ns)
    return again is not None and again.value == digest.value


def of_bytes(data: memoryview) -> str:
    """Digest of bytes in memory, of a contiguous view; the same as of a file that holds them."""
    data = data.cast("B") if data.nbytes else memoryview(b"")
    with _tree() as tree:
        for start in range(0, data.nbytes, BLOCK_BYTES):
            tree.add(data[start : start + BLOCK_BYTES])
        return tree.root()


def _read_once(
    path: str | os.PathLike[str], memo: Memo | None, clock_ns: Callable[[], int]
) -> Digest | None:
    """None if it is no regular file or its size is not what was read."""
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        began_ns = clock_ns()
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        state = FileState.of(status)
        # Some network file systems give no inodes, and then files are not told apart.
        known = memo.recall(state) if memo is not None and state.inode else None
        if known is not None:
            return Digest(known, state, memoised=True, fresh=False)
        value, size_bytes = _of_stream(file)
    # Also of a change in the future: the clock was set back since, or is another machine's.
    fresh = began_ns - state.changed_ns < _FRESH_NS or not state.inode
    return (
        Digest(value, state, memoised=False, fresh=fresh)
        if size_bytes == state.size_bytes
        else None
    )


def _without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe without a writer at once, so that it can be refused."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))


def _of_stream(file: RawIOBase) -> tuple[str, int]:
    """Digest and count of all bytes from here on."""
    with _tree() as tree:
        ring = deque(bytearray(BLOCK_BYTES) for _ in range(tree.window + 1))
        size_bytes = 0
        while True:
            block = memoryview(ring[0])
            filled = 0
            while filled < BLOCK_BYTES and (count := file.readinto(block[filled:])):
                filled += count
            if filled:
                tree.add(block[:filled])
                size_bytes += filled
            if filled < BLOCK_BYTES:
                return tree.root(), size_bytes
            ring.rotate(-1)


class _Tree:
    """Digests blocks in threads, `window` of them at a time; a block must stay as it is until as
    many others were added."""

    def __init__(self, pool: ThreadPoolExecutor, window: int) -> None:
        self.window = window
        self._pool = pool
        self._pending: deque[Future[bytes]] = deque()
        self._length = 0
        # Leaves and root are digested under different names: no file's content is another's tree.
        self._root = hashlib.blake2b(digest_size=32, person=b"tokenreduce root")

    def add(self, block: memoryview) -> None:
        if len(self._pending) == self.window:
            self._root.update(self._pending.popleft().result())
        self._length += block.nbytes
        self._pending.append(self._pool.submit(_leaf, block))

    def root(self) -> str:
        for leaf in self._pending:
            self._root.update(leaf.result())
        self._root.update(self._length.to_bytes(8, "little"))
        return self._root.hexdigest()


def _leaf(block: memoryview) -> bytes:
    return hashlib.blake2b(block, digest_size=32, person=b"tokenreduce leaf").digest()


@contextmanager
def _tree() -> Iterator[_Tree]:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    workers = min(4, cores)
    with ThreadPoolExecutor(workers) as pool:
        yield _Tree(pool, 2 * workers)
