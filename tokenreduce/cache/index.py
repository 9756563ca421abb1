"""Order of use and digests of files already read, in SQLite; knows no entry's content.

Nothing here is needed: without it the oldest entry is the least recently used one, and a file's
digest is computed again. So a damaged index is thrown away, and one that cannot be used is done
without. SQLite does not notice a flipped bit, so every digest stands beside a check of its row.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from .digest import FileState

T = TypeVar("T")

VERSION = 1
MOST_DIGESTS = 10_000
_BUSY_SECONDS = 10.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS uses (name TEXT PRIMARY KEY, turn INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS digests (state TEXT PRIMARY KEY, digest TEXT NOT NULL,"
    " row_check TEXT NOT NULL, turn INTEGER NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)
# Turns and not times: clocks are set back.
_NEXT = "(SELECT coalesce(max(CAST(turn AS INTEGER)), 0) + 1 FROM {})"

# A message about a damaged schema quotes it, and need not be text.
_FAULTS = (sqlite3.Error, UnicodeDecodeError)
_NOT_ITS_FAULT = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}


class Unusable(Exception):
    """The index can be neither used nor replaced, and why. Never leaves this package."""


class Index:
    """An SQLite file in a folder that exists, made when it is first needed.

    Every call opens and closes it: it may be shared by threads, forks and processes. All of them
    raise Unusable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def use(self, name: str) -> None:
        """Makes an entry the most recently used one."""
        self._change("INSERT OR REPLACE INTO uses VALUES (?, " + _NEXT.format("uses") + ")", name)

    def turns(self) -> dict[str, int]:
        """For each entry that was ever used a number that is higher the later it was."""
        query = "SELECT CAST(name AS TEXT), CAST(turn AS INTEGER) FROM uses"
        return dict(self._run(lambda base: base.execute(query).fetchall()))

    def forget(self, names: list[str]) -> None:
        self._run(lambda base: _forget(base, names))

    def recall(self, state: FileState) -> str | None:
        """The digest of a file in that state."""
        key = _key(state)
        query = "SELECT digest, row_check FROM digests WHERE state = ?"
        row = self._run(lambda base: base.execute(query, (key,)).fetchone())
        return row[0] if row is not None and row[1] == _row_check(key, row[0]) else None

    def remember(self, state: FileState, value: str) -> None:
        key = _key(state)
        insert = f"INSERT OR REPLACE INTO digests VALUES (?, ?, ?, {_NEXT.format('digests')})"
        self._change(insert, key, value, _row_check(key, value))
        self._change(
            "DELETE FROM digests WHERE state NOT IN"
            " (SELECT state FROM digests ORDER BY turn DESC LIMIT ?)",
            MOST_DIGESTS,
        )

    def empty(self) -> None:
        """Forgets everything."""
        self._change("DELETE FROM uses")
        self._change("DELETE FROM digests")

    def _change(self, statement: str, *values: Any) -> None:
        self._run(lambda base: base.execute(statement, values))

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        for attempt in range(3):
            try:
                with closing(self._open()) as base:
                    return work(base)
            except _FAULTS as error:
                if _code(error) in _NOT_ITS_FAULT or attempt == 2:
                    raise Unusable(str(error)) from error
            except OSError as error:
                raise Unusable(error.strerror or str(error)) from error
            # First only if it is still damaged: another process may have replaced it.
            self._throw_away(whole_too=attempt > 0)
        raise Unusable("it stays damaged")

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            (version,) = base.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._make(base)
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"version {version}")
            # Damage by a power cut is noticed and thrown away: not worth waiting for the disk.
            base.execute("PRAGMA synchronous = OFF")
        except BaseException:
            base.close()
            raise
        return base

    def _make(self, base: sqlite3.Connection) -> None:
        with self._alone():
            # Not everywhere, as on network file systems; then readers and writers take turns.
            with suppress(sqlite3.OperationalError):
                base.execute("PRAGMA journal_mode = WAL")
            base.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                base.execute(statement)
            base.execute("COMMIT")

    def _throw_away(self, *, whole_too: bool) -> None:
        try:
            with self._alone():
                if whole_too or not self._is_whole():
                    for ending in ("", "-wal", "-shm", "-journal"):
                        self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        except OSError as error:
            raise Unusable(error.strerror or str(error)) from error

    def _is_whole(self) -> bool:
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as base:
                (version,) = base.execute("PRAGMA user_version").fetchone()
                (verdict,) = base.execute("PRAGMA quick_check").fetchone()
        except _FAULTS as error:
            return _code(error) in _NOT_ITS_FAULT
        return version in (0, VERSION) and verdict == "ok"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from making or throwing away the index, where locks are known."""
        try:
            import fcntl
        except ImportError:  # Windows, where a file in use cannot be thrown away either
            yield
            return
        with open(self._path.with_name("index.lock"), "ab") as file:
            with suppress(OSError):  # not on every network file system
                _wait_for(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
            yield


def _wait_for(lock: Callable[[], None]) -> None:
    """Tries until the busy time is over: a stopped process may hold it."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return lock()
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _forget(base: sqlite3.Connection, names: list[str]) -> None:
    base.execute("BEGIN IMMEDIATE")
    base.executemany("DELETE FROM uses WHERE name = ?", [(name,) for name in names])
    base.execute("COMMIT")


def _code(error: Exception) -> int:
    """The primary result code; that of a general error where Python found the fault itself."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def _key(state: FileState) -> str:
    """As text: inodes may have 64 bits, SQLite's integers have 63."""
    return f"{state.device}:{state.inode}:{state.size_bytes}:{state.mtime_ns}:{state.ctime_ns}"


def _row_check(key: str, value: object) -> str:
    return hashlib.blake2b(f"{key} {value}".encode(errors="replace"), digest_size=16).hexdigest()
