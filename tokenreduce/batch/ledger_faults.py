"""What goes wrong with a ledger or a file beside it, as one line; knows nothing of what it holds.

Every line says what happened, what becomes of the rows, and what to do.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenreduce.errors import TokenReduceError
from tokenreduce.video.inputs import shown

_SAFE = "every row recorded so far is safe"
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_IN_USE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_UNREACHABLE = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOLFS}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


class LedgerError(TokenReduceError):
    """The ledger, its lock or an output beside it cannot be used. The message is one line."""


def safe(text: str) -> str:
    r"""Any text for a message: on one line, and nothing in it that a terminal obeys.

    >>> safe("a\n\ud800b")
    'a\\n\\ud800b'
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


@contextmanager
def database(path: Path) -> Iterator[None]:
    """Turns whatever SQLite says of `path` into a LedgerError.

    Wrong use of SQLite, as of a closed connection, is a bug and passes through.
    """
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:  # a damaged text need not be text
        raise LedgerError(f"{shown(path)}: {_of_database(path, error)}") from error


@contextmanager
def system(path: Path) -> Iterator[None]:
    """Turns whatever the system says of the file at `path` into a LedgerError."""
    try:
        yield
    except OSError as error:
        raise LedgerError(f"{shown(path)}: {_of_system(path, error)}") from error


def damaged(path: Path, what: str) -> LedgerError:
    """For a ledger that contradicts itself. what: the evidence, in a few words."""
    return LedgerError(f"{shown(path)}: {_damage(path, what)}")


def _of_system(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT and not os.path.isdir(path.parent):
        return f"the folder {shown(path.parent)} does not exist; make it, or choose another output"
    if error.errno in _NOT_ALLOWED:
        return (
            "this user may not use it or write in its folder; change their mode or owner, or "
            "choose another output"
        )
    if error.errno in _NO_ROOM:
        return f"no space left to write it; {_SAFE}: free some space and run the same again"
    reason = error.strerror or str(error)
    return f"cannot be used ({reason}); {_SAFE}: check the disk, or choose another output"


def _of_database(path: Path, error: Exception) -> str:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return f"the disk is full; {_SAFE}: free some space and run the same again"
    if code in _READ_ONLY:
        return f"cannot be written, it is read-only; {_SAFE}: change the mode of it and its folder"
    if code in _IN_USE:
        return f"another program keeps it locked; {_SAFE}: end that program and run the same again"
    if code in _UNREACHABLE:
        return (
            f"cannot be read or written ({error}); {_SAFE}: check its disk, the space and quota "
            "left on it and the folder's mode, and run the same again"
        )
    return _damage(path, str(error))


def _damage(path: Path, what: str) -> str:
    return (
        f"is damaged ({safe(what[:200])}); put a backup in its place, or begin anew with --new, "
        f"which keeps it; 'sqlite3 {shown(path)} .recover' shows what can still be read"
    )
