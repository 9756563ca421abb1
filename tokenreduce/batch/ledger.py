"""The truth of a batch: every row as it ended, in one SQLite file beside the output.

One process writes it; any number may read meanwhile. Knows neither the output nor who asks.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenreduce.batch.ledger_base import Base
from tokenreduce.batch.ledger_facts import Counts, Settings, Stand
from tokenreduce.batch.ledger_faults import LedgerError, damaged
from tokenreduce.batch.ledger_rows import (
    COLUMNS,
    ascii_json,
    check_of,
    from_columns,
    restored,
    stored,
    to_columns,
)
from tokenreduce.batch.ledger_schema import BESIDES_ROWS, BUSY_SECONDS
from tokenreduce.batch.rows import Row, Status, now
from tokenreduce.cache.digest import FileState

__all__ = ["Counts", "Ledger", "Settings", "Stand", "ledger_of"]

_LIST = ", ".join(COLUMNS)
_PUT = f"INSERT OR REPLACE INTO rows (row_check, {_LIST}) VALUES (?{', ?' * len(COLUMNS)})"
_ONE = "id = ? AND settings = ?"


def ledger_of(output: str | os.PathLike[str]) -> Path:
    """Where the ledger of an output lies."""
    return Path(os.fspath(output) + ".ledger")


class Ledger:
    """Made by `create` and `open`. Threads may share it. Calls raise LedgerError, one line, where
    the file cannot be read or written; a row whose `record` returned is never lost by that."""

    def __init__(self, base: Base) -> None:
        self.aliases = 0
        """So many contents got a further name since it was opened."""
        self._base = base

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Ledger:
        """A new one; LedgerError if there is one, or its folder is missing or not writable."""
        path = Path(path)
        Base.create(path)
        return cls.open(path)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        readonly: bool = False,
        busy_seconds: float = BUSY_SECONDS,
    ) -> Ledger:
        """One that exists. An older version is brought up to this one, unless it is `readonly`.

        busy_seconds: how long any call waits for another program that keeps it locked
        Raises LedgerError if it is missing, not ours, damaged, newer, or older and readonly.
        """
        return cls(Base.open(Path(path), readonly=readonly, busy_seconds=busy_seconds))

    @property
    def path(self) -> Path:
        return self._base.path

    def close(self) -> None:
        """May be called twice. What was recorded stays, even where this fails."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_settings(self, digest: str, facts: Mapping[str, str], given: Mapping[str, str]) -> None:
        """Of settings that are known, only `given` is replaced."""
        values = (stored(digest), ascii_json(dict(facts)), ascii_json(dict(given)), now())
        with self._base.writing() as base:
            base.execute(
                "INSERT INTO settings (digest, facts, given, first_used) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET given = excluded.given",
                values,
            )

    def settings(self) -> dict[str, Settings]:
        """By digest, in the order they came."""
        select = "SELECT digest, facts, given, first_used FROM settings ORDER BY turn"
        found = {}
        for digest, facts, given, first_used in self._base.all(select):
            try:
                one = Settings(restored(digest), json.loads(facts), json.loads(given), first_used)
            except ValueError:
                raise damaged(self.path, "settings that cannot be read") from None
            found[one.digest] = one
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is recorded within becomes durable when it ends, or none of it; much faster.

        Other threads wait meanwhile.
        """
        with self._base.writing():
            yield

    def record(self, row: Row, *, forget: str | None = None) -> None:
        """Puts a row, in place of one with the same id and settings, at the end of the order.

        It is on the disk when this returns, unless `together`. forget: id of another row of the
        same settings that goes at the same moment. Raises ValueError or TypeError, and puts
        nothing, if JSON cannot say its answer, NaN included.
        """
        columns = to_columns(row)
        with self._base.writing() as base:
            if forget is not None:
                base.execute(f"DELETE FROM rows WHERE {_ONE}", (stored(forget), columns[1]))
            base.execute(_PUT, (check_of(columns), *columns))

    def forget(self, id: str, settings: str) -> None:
        """A row goes, if it is there. Durable with the next row."""
        if self.stand(id, settings) is not None:
            with self._base.writing(soon=True) as base:
                base.execute(f"DELETE FROM rows WHERE {_ONE}", (stored(id), stored(settings)))

    def find(self, id: str, settings: str) -> Row | None:
        select = f"SELECT row_check, {_LIST} FROM rows WHERE {_ONE}"
        for columns in self._base.all(select, stored(id), stored(settings)):
            return self._sound(columns)
        return None

    def stand(self, id: str, settings: str) -> Stand | None:
        """Where a row stands, without its answer: for every row that is planned."""
        select = f"SELECT status, attempts, key FROM rows WHERE {_ONE}"
        for status, attempts, key in self._base.all(select, stored(id), stored(settings)):
            return Stand(status, attempts, restored(key))
        return None

    def answered(self, key: str) -> Row | None:
        """The first row with this key that was answered, under whatever id."""
        select = (
            f"SELECT row_check, {_LIST} FROM rows INDEXED BY rows_by_key"
            " WHERE key = ? AND status = 'answered' ORDER BY sequence LIMIT 1"
        )
        for columns in self._base.all(select, stored(key)):
            return self._sound(columns)
        return None

    def rows(self, *, status: Status | None = None, settings: str | None = None) -> Iterator[Row]:
        """In the order they were recorded, as they stand when the first one is taken, whatever is
        recorded meanwhile. Holds one row in memory at a time."""
        # By the one index that keeps the order: any other would sort every answer first.
        select = f"SELECT row_check, {_LIST} FROM rows "
        select += "NOT INDEXED WHERE 1" if status is None else "INDEXED BY rows_by_status WHERE 1"
        values: list[str | bytes] = []
        if status is not None:
            select += " AND status = ?"
            values.append(status)
        if settings is not None:
            select += " AND settings = ?"
            values.append(stored(settings))
        for columns in self._base.stream(f"{select} ORDER BY sequence", *values):
            yield self._sound(columns)

    def counts(self, settings: str | None = None) -> Counts:
        select = "SELECT status, failure, count(*) FROM rows INDEXED BY rows_counted"
        if settings is not None:
            select += " WHERE settings = ?"
        values = () if settings is None else (stored(settings),)
        answered, failures = 0, dict[str, int]()
        for status, kind, count in self._base.all(f"{select} GROUP BY status, failure", *values):
            if status == "answered":
                answered += count
            else:
                name = "" if kind is None else restored(kind)
                failures[name] = failures.get(name, 0) + count
        ordered = dict(sorted(failures.items(), key=lambda pair: (-pair[1], pair[0])))
        return Counts(answered, sum(failures.values()), ordered)

    def name(self, content: str, path: str) -> None:
        """This content has been seen under this name. Durable with the next row."""
        pair = (stored(content), stored(path))
        insert = "INSERT OR IGNORE INTO names (content, path) VALUES (?, ?)"
        with self._base.writing(soon=True) as base:
            if base.execute(insert, pair).rowcount > 0:
                select = "SELECT count(*) FROM names WHERE content = ?"
                self.aliases += base.execute(select, pair[:1]).fetchone()[0] > 1

    def names(self, content: str) -> tuple[str, ...]:
        """In the order they were first seen."""
        select = "SELECT path FROM names WHERE content = ? ORDER BY turn"
        return tuple(restored(path) for (path,) in self._base.all(select, stored(content)))

    def recall(self, state: FileState) -> str | None:
        """The digest of a file in that state. Never raises: see `cache.digest.Memo`."""
        with suppress(LedgerError, sqlite3.ProgrammingError):
            for (digest,) in self._base.all(
                "SELECT digest FROM memos WHERE state = ?", _key(state)
            ):
                return str(digest)
        return None

    def remember(self, state: FileState, value: str) -> None:
        """Never raises: a digest that is not kept is computed again."""
        with suppress(LedgerError, sqlite3.ProgrammingError), self._base.writing(soon=True) as base:
            base.execute("INSERT OR REPLACE INTO memos VALUES (?, ?)", (_key(state), value))

    def thumbnail(self, content: str) -> bytes | None:
        select = "SELECT jpeg FROM thumbnails WHERE content = ?"
        for (jpeg,) in self._base.all(select, stored(content)):
            return bytes(jpeg)
        return None

    def keep_thumbnail(self, content: str, jpeg: bytes) -> None:
        """Durable with the next row."""
        with self._base.writing(soon=True) as base:
            base.execute("INSERT OR REPLACE INTO thumbnails VALUES (?, ?)", (stored(content), jpeg))

    def take_over(self, other: Ledger) -> None:
        """All that `other` knows besides its rows; what is known here already stays."""
        with self._base.writing() as base:
            for table, columns in BESIDES_ROWS.items():
                marks = ", ".join("?" * len(columns.split(",")))
                base.executemany(
                    f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})",
                    other._base.stream(f"SELECT {columns} FROM {table} ORDER BY rowid"),
                )

    def _sound(self, columns: tuple[Any, ...]) -> Row:
        if check_of(columns[1:]) != columns[0]:
            raise damaged(self.path, "a row is not what was recorded")
        return from_columns(columns[1:])


def _key(state: FileState) -> str:
    """As text: inodes may have 64 bits, SQLite's integers have 63."""
    return f"{state.device}:{state.inode}:{state.size_bytes}:{state.mtime_ns}:{state.ctime_ns}"
