"""The tables of a ledger, the versions they had, and how its file is opened; knows no rows."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tokenreduce.batch.ledger_faults import LedgerError, damaged, system
from tokenreduce.video.inputs import shown

Mode = Literal["rw", "ro", "immutable"]

APPLICATION = 0x746B7265  # "tkre"
VERSION = 1
STEPS: Mapping[int, Sequence[str]] = {}
"""For each older version that is still read, the statements that lead to the next one."""

BUSY_SECONDS = 10.0
CHECKED_BYTES = 256 << 20
"""Larger ones are not read as a whole before they are written; every row is checked when read."""
_NO_RIGHT = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
_MAGIC = b"SQLite format 3\x00"

TABLES = (
    # AUTOINCREMENT: a number that was given is never given again, so order never changes.
    "CREATE TABLE rows (sequence INTEGER PRIMARY KEY AUTOINCREMENT, row_check BLOB NOT NULL,"
    " id TEXT NOT NULL, settings TEXT NOT NULL, key TEXT NOT NULL, content TEXT NOT NULL,"
    " file TEXT NOT NULL, question TEXT NOT NULL, status TEXT NOT NULL,"
    " attempts INTEGER NOT NULL, started TEXT NOT NULL, finished TEXT NOT NULL,"
    " host TEXT NOT NULL, worker TEXT NOT NULL, answer TEXT, failure TEXT, reason TEXT,"
    " frames INTEGER, budget INTEGER, trace TEXT, UNIQUE (id, settings))",
    "CREATE INDEX rows_by_key ON rows (key)",
    "CREATE INDEX rows_by_status ON rows (status)",
    # Counting reads this one alone, and no answers.
    "CREATE INDEX rows_counted ON rows (settings, status, failure)",
    "CREATE TABLE settings (turn INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE,"
    " facts TEXT NOT NULL, given TEXT NOT NULL, first_used TEXT NOT NULL)",
    "CREATE TABLE names (turn INTEGER PRIMARY KEY, content TEXT NOT NULL, path TEXT NOT NULL,"
    " UNIQUE (content, path))",
    "CREATE TABLE memos (state TEXT PRIMARY KEY, digest TEXT NOT NULL)",
    "CREATE TABLE thumbnails (content TEXT PRIMARY KEY, jpeg BLOB NOT NULL)",
)

NAMES = frozenset(statement.split()[2] for statement in TABLES)
"""Of all tables and indexes."""

BESIDES_ROWS = {
    "settings": "digest, facts, given, first_used",
    "names": "content, path",
    "memos": "state, digest",
    "thumbnails": "content, jpeg",
}
"""The columns of each table but one; the order of those that have one is that of their turns."""


def make(base: sqlite3.Connection, path: Path) -> None:
    """The tables of this version in an empty database. path: what it will be called."""
    base.execute(f"PRAGMA application_id = {APPLICATION}")
    (journal,) = base.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal != "wal":
        raise LedgerError(
            f"{shown(path)}: its file system cannot hold a ledger (no write-ahead log); choose an "
            "output on a local disk"
        )
    base.execute("BEGIN IMMEDIATE")
    for statement in TABLES:
        base.execute(statement)
    base.execute(f"PRAGMA user_version = {VERSION}")
    base.execute("COMMIT")
    # Closing does it, too, and is silent where the disk is full: the file would be half a ledger.
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def require_ours(path: Path) -> None:
    """Looks at the file's first bytes, before SQLite touches it. Raises LedgerError."""
    with system(path):
        if not os.path.isfile(path):
            found = "no such ledger" if not os.path.exists(path) else "is no file"
            raise LedgerError(f"{shown(path)}: {found}; give the output of a batch, as to -o")
        with open(path, "rb") as file:
            head = file.read(100)
    if head[:16] != _MAGIC or head[68:72] != APPLICATION.to_bytes(4, "big"):
        raise LedgerError(
            f"{shown(path)}: is no ledger of tokenreduce, or is damaged at its beginning; choose "
            "another output, or move that file away"
        )


def connect(path: Path, mode: Mode, busy_seconds: float) -> sqlite3.Connection:
    """Of a file that exists. Raises sqlite3.Error. Threads may share it, one at a time.

    immutable: without any lock, for a file that nobody can write
    """
    query = "immutable=1" if mode == "immutable" else f"mode={mode}"
    base = sqlite3.connect(
        f"{Path(os.path.abspath(path)).as_uri()}?{query}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # A damaged or hostile file: found early, and calls no functions.
        base.execute("PRAGMA cell_size_check = ON")
        base.execute("PRAGMA trusted_schema = OFF")
        base.execute("PRAGMA fullfsync = ON")  # macOS: what FULL means elsewhere
        base.execute("PRAGMA synchronous = FULL")
        base.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        base.close()
        raise
    return base


def connect_reading(path: Path, busy_seconds: float) -> tuple[sqlite3.Connection, Mode]:
    """A connection that changes nothing, and how it was opened. Raises sqlite3.Error, OSError.

    Where a log lies beside the ledger, somebody works on it or was killed: it is read along, and
    stays. Else SQLite's own two files come and go again, which takes the right to write; without
    it no lock is needed, as nobody else is at work.
    """
    log = path.with_name(path.name + "-wal")
    mode: Mode = "ro" if log.exists() else "rw"
    try:
        base = connect(path, mode, busy_seconds)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NO_RIGHT:
            raise
        if log.exists() and log.stat().st_size:
            raise LedgerError(
                f"{shown(path)}: its batch was killed, and what it left in {shown(log.name)} "
                "cannot be read where this user may not write; copy both to another folder"
            ) from error
        return connect(path, "immutable", busy_seconds), "immutable"
    base.execute("PRAGMA query_only = ON")
    return base, mode


def version_of(base: sqlite3.Connection) -> int:
    version: int = base.execute("PRAGMA user_version").fetchone()[0]
    return version


def bring_up(base: sqlite3.Connection, path: Path, *, readonly: bool) -> None:
    """Makes an older ledger one of this version, all at once or not at all.

    Raises LedgerError where it is newer, too old, or may only be read; sqlite3.Error.
    """
    version = version_of(base)
    if version > VERSION:
        raise LedgerError(
            f"{shown(path)}: was written by a newer tokenreduce (its format is {version}, this one "
            f"knows up to {VERSION}); install the newer one, or choose another output"
        )
    if version != VERSION:
        _convert(base, path, version, readonly=readonly)
    if not readonly and os.path.getsize(path) <= CHECKED_BYTES:  # writing on would spoil it more
        (verdict,) = base.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(path, verdict)
    found = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
    if missing := NAMES - found:
        raise damaged(path, f"it has no {min(missing)}")


def _convert(base: sqlite3.Connection, path: Path, version: int, *, readonly: bool) -> None:
    if not all(older in STEPS for older in range(version, VERSION)):
        raise damaged(path, f"it says that its format is {version}")
    if readonly:
        raise LedgerError(
            f"{shown(path)}: was written by an older tokenreduce (its format is {version}); run "
            "its batch again, which converts it and asks nothing that is answered"
        )
    base.execute("BEGIN IMMEDIATE")
    try:
        for older in range(version_of(base), VERSION):
            for statement in STEPS[older]:
                base.execute(statement)
        base.execute(f"PRAGMA user_version = {VERSION}")
        base.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            base.execute("ROLLBACK")
        raise
