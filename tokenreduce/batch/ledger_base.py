"""One SQLite file of ours whose connection threads share; knows tables by name, no rows."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from tokenreduce.batch import durable, ledger_schema
from tokenreduce.batch.ledger_faults import LedgerError, database, system
from tokenreduce.batch.ledger_schema import Mode
from tokenreduce.video.inputs import shown


def clear_unfinished(path: Path) -> None:
    """Removes what a killed `Base.create` left beside `path`. Only for whoever holds the output's
    lock: else another process may be at one of these now."""
    for left in path.parent.glob(f"{escape(path.name)}.{'[0-9a-f]' * 8}.new*"):
        with suppress(OSError):
            left.unlink()


class Base:
    """Made by `open`. Calls raise LedgerError where the file cannot be read or written."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, mode: Mode, busy_seconds: float
    ) -> None:
        self.path = path
        self._connection = connection
        self._mode = mode
        self._busy_seconds = busy_seconds
        self._turn = threading.RLock()

    @staticmethod
    def create(path: Path) -> None:
        """An empty ledger, which is there whole or not at all. LedgerError if there is a file."""
        Base.require_free(path)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        try:
            with system(path):
                part.touch(exist_ok=False)  # says better than SQLite why it cannot be
            with database(path), closing(ledger_schema.connect(part, "rw", 0)) as connection:
                ledger_schema.make(connection, path)
            with system(path):
                durable.sync_file(part)
                durable.name_new(part, path)
        except LedgerError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise _taken(path) from error
            raise
        finally:
            for ending in ("", "-wal", "-shm"):
                with suppress(OSError):
                    part.with_name(part.name + ending).unlink()

    @classmethod
    def open(cls, path: Path, *, readonly: bool, busy_seconds: float) -> Base:
        ledger_schema.require_ours(path)
        mode: Mode = "rw"
        with system(path), database(path):
            if readonly:
                connection, mode = ledger_schema.connect_reading(path, busy_seconds)
            else:
                connection = ledger_schema.connect(path, mode, busy_seconds)
            try:
                ledger_schema.bring_up(connection, path, readonly=readonly)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, mode, busy_seconds)

    @staticmethod
    def require_free(path: Path) -> None:
        """Raises LedgerError if a new ledger cannot be there: SQLite would take the log of one that
        is gone for the new one's."""
        log = path.with_name(path.name + "-wal")
        left = os.path.lexists(log)  # asked first: another process may make both just now
        if os.path.lexists(path):
            raise _taken(path)
        if left:
            raise LedgerError(
                f"{shown(log)}: is left of a ledger that is gone; put that one back beside it, or "
                "begin anew with --new, which moves it aside"
            )

    @staticmethod
    def settle(path: Path) -> None:
        """Brings a ledger that was not closed into its one file, where that is possible."""
        with suppress(LedgerError, sqlite3.Error, OSError):
            ledger_schema.require_ours(path)
            ledger_schema.connect(path, "rw", ledger_schema.BUSY_SECONDS).close()

    def close(self) -> None:
        with self._turn, suppress(sqlite3.Error):
            self._connection.close()

    def all(self, select: str, *values: Any) -> list[Any]:
        with self._turn, database(self.path):
            return self._connection.execute(select, values).fetchall()

    def stream(self, select: str, *values: Any) -> Iterator[Any]:
        """What one statement finds, as it stands when the first is taken; one at a time."""
        mode: Mode = "ro" if self._mode == "rw" else self._mode
        with (
            database(self.path),
            # Its own connection: one statement sees one moment, and no writer waits for it.
            closing(ledger_schema.connect(self.path, mode, self._busy_seconds)) as connection,
        ):
            yield from connection.execute(select, values)

    @contextmanager
    def writing(self, *, soon: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, or a part of the one that is open; other threads wait for its end.

        soon: it need not be on the disk before the next one that must
        """
        with self._turn, database(self.path):
            connection = self._connection
            if connection.in_transaction:
                yield connection
                return
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if soon else 'FULL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")


def _taken(path: Path) -> LedgerError:
    return LedgerError(f"{shown(path)}: there is a ledger already; choose another output")
