"""Who works on an output: one process at a time; knows nothing of what it does there.

The system holds the lock for as long as the process lives, however it ends. The text in the file is
only for whoever comes second: where it is old, nothing depends on it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tokenreduce.batch.ledger_faults import LedgerError, safe, system
from tokenreduce.batch.rows import now
from tokenreduce.video.inputs import shown

_UNKNOWN_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_LONGEST_TEXT_BYTES = 4096
_TRIES = 4
_PAUSE_SECONDS = 0.05


def lock_of(output: str | os.PathLike[str]) -> Path:
    """Where the lock of an output lies."""
    return Path(os.fspath(output) + ".lock")


class Lock:
    """Held until `close`, or until this process ends in whatever way."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle: int | None = handle

    @classmethod
    def take(cls, output: str | os.PathLike[str]) -> Lock:
        """For an output that need not exist. Does not wait.

        Raises LedgerError, one line, if another process holds it, saying which and since when; if
        its folder is missing or not writable; if its file system has no locks.
        """
        path = lock_of(output)
        with system(path):
            while True:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
                try:
                    _lock(handle, Path(output))
                    # Whoever held it before may have deleted the file that was opened here.
                    if _is_at(handle, path):
                        _describe(handle)
                        return cls(path, handle)
                except BaseException:
                    os.close(handle)
                    raise
                os.close(handle)

    def close(self) -> None:
        """May be called twice. The file goes, where the system lets go of an open one."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        with suppress(OSError):
            if _is_at(handle, self.path):
                self.path.unlink()  # before it is unlocked: later, it might be another's
        os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_free(output: str | os.PathLike[str]) -> None:
    """Raises LedgerError, as `Lock.take` does, if another process holds an output's lock now.

    Neither makes a file nor changes one. Where locks are unknown, nothing is held.
    """
    try:
        handle = os.open(lock_of(output), os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return
    try:
        _lock(handle, Path(output))
    except LedgerError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _TAKEN:
            raise
    finally:
        os.close(handle)


def _lock(handle: int, output: Path) -> None:
    try:
        _try(handle)
    except OSError as error:
        if error.errno in _TAKEN:
            raise LedgerError(
                f"{shown(output)}: {_holder(handle)} works on it; wait until it is done, or stop it"
            ) from error
        if error.errno in _UNKNOWN_HERE:
            raise LedgerError(
                f"{shown(output)}: its file system has no locks ({error.strerror}), and two "
                "batches at once would spoil it; choose an output on a local disk"
            ) from error
        raise


def _try(handle: int) -> None:
    """More than once: whoever only asks whether it is free holds it for a moment."""
    for _ in range(_TRIES - 1):
        try:
            return _system_lock(handle)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        time.sleep(_PAUSE_SECONDS)
    _system_lock(handle)


if sys.platform == "win32":
    import msvcrt

    def _system_lock(handle: int) -> None:
        # A byte far behind the text, which others must be able to read.
        os.lseek(handle, 1 << 30, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _system_lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(handle: int) -> None:
    command = " ".join(sys.argv)[:500]
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now(), "command": command}
    text = json.dumps(holder, ensure_ascii=True) + "\n"
    # A full disk is found out by the ledger, which says so better.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text.encode("ascii"))


def _holder(handle: int) -> str:
    """Who holds it, as it said itself; it may not have come to that yet."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        said = json.loads(os.read(handle, _LONGEST_TEXT_BYTES))
        who = f"process {int(said['pid'])} on {said['host']} (since {said['since']}"
        return safe(f"{who}: {said['command']})")
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
