"""The JSONL that users read: a picture of the ledger, one row a line. Knows nothing of asking.

The caller holds the output's lock. Whatever is in the file can be lost without loss.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tokenreduce.batch import durable
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.ledger_base import Base
from tokenreduce.batch.ledger_faults import LedgerError, system
from tokenreduce.batch.ledger_rows import ascii_json
from tokenreduce.batch.rows import Row
from tokenreduce.video.inputs import shown

_KEYS = {"id", "status", "file", "key", "settings"}
_FIRST_BYTES = b'{"id":'
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LONGEST_LINE_BYTES = 64 << 20


def begun(output: str | os.PathLike[str]) -> bool:
    """Whether a batch was begun with this output: its ledger is there.

    Raises LedgerError, one line, before anything is done: for `-`, a pipe, a device or a folder;
    where there is a file that no batch wrote; where a batch's output has lost its ledger.
    """
    path, ledger = Path(output), ledger_of(output)
    if os.fspath(output) == "-":
        raise LedgerError("- is no output of a batch, which must be resumed: name a file, as in -o")
    with system(path):
        if os.path.lexists(path) and not os.path.isfile(os.path.realpath(path)):
            raise LedgerError(
                f"{shown(path)}: is no regular file; a batch must be resumed, so name one"
            )
        known = os.path.lexists(ledger)
        if not path.exists() or _is_blank(path):
            return known
        if not _is_ours(path, whole=not known):
            raise LedgerError(
                f"{shown(path)}: holds something that no batch wrote; choose another output, or "
                "begin anew with --new, which moves that file aside"
            )
    if not known:
        raise LedgerError(
            f"{shown(path)}: its ledger {shown(ledger.name)} is missing, and without it the batch "
            "cannot go on; put it back beside, or begin anew with --new, which moves the old "
            "answers aside"
        )
    return True


def lines(ledger: Ledger) -> Iterator[bytes]:
    """Every row as a line of JSON in ASCII, in the order they were recorded."""
    for row in ledger.rows():
        yield _line(row, ledger)


class Projection:
    """`rewrite` at the start of a run, `append` after each `Ledger.record`, `finish` at the end.

    All of them raise LedgerError, one line, where the file cannot be written; the ledger has the
    rows, and the next `rewrite` brings them.
    """

    def __init__(self, output: str | os.PathLike[str], ledger: Ledger) -> None:
        self._path = Path(os.path.realpath(output))  # a link stays one
        self._ledger = ledger
        self._handle: int | None = None
        self._lines = self._bytes = self._aliases = 0

    def rewrite(self) -> None:
        """All rows, in place of whatever was there: it is the old file or the new one, never a part
        of one. An existing file keeps its mode."""
        self.close()
        # Before the rows are read: a name that comes meanwhile is one that is not in.
        aliases, count = self._ledger.aliases, 0
        with system(self._path):
            with durable.replacing(self._path) as file:
                for count, line in enumerate(lines(self._ledger), 1):  # noqa: B007
                    file.write(line)
            self._handle = os.open(self._path, _APPEND)
            self._bytes = os.fstat(self._handle).st_size
        self._lines, self._aliases = count, aliases

    def append(self, row: Row) -> None:
        """One line, whole or not at all. Of an id that is there already, the last line counts."""
        if self._handle is None:
            self.rewrite()  # which has this row too
            return
        line = _line(row, self._ledger)
        with system(self._path):
            try:
                done = 0
                while done < len(line):
                    done += os.write(self._handle, line[done:])
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._handle, self._bytes)
                raise
        self._bytes += len(line)
        self._lines += 1

    def finish(self) -> None:
        """Rewrites where a row was replaced, a name was added, or the file is not what was written
        here; then lets go of it."""
        if (
            self._lines != self._ledger.counts().rows
            or self._aliases != self._ledger.aliases
            or not self._is_in_place()
        ):
            self.rewrite()
        self.close()

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
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

    def _is_in_place(self) -> bool:
        if self._handle is None:
            return False
        with suppress(OSError):
            here, there = os.fstat(self._handle), os.stat(self._path)
            return os.path.samestat(here, there) and there.st_size == self._bytes
        return False


def move_aside(output: str | os.PathLike[str]) -> Path | None:
    """Renames an output and its ledger, so that both are found under the name that is returned.

    answers.jsonl becomes answers.jsonl.1, or the next number of which nothing is there. None if
    there was neither. Nothing is overwritten. Raises LedgerError if the folder forbids it.
    """
    path = Path(output)
    Base.settle(ledger_of(path))
    endings = ("", ".ledger-wal", ".ledger-shm", ".ledger")
    present = [one for one in endings if os.path.lexists(f"{path}{one}")]
    if not present:
        return None
    number = 1
    while any(os.path.lexists(f"{path}.{number}{one}") for one in endings):
        number += 1
    with system(path):
        for ending in present:
            os.rename(f"{path}{ending}", f"{path}.{number}{ending}")
        durable.sync_folder(path.parent)
    return Path(f"{path}.{number}")


def _line(row: Row, ledger: Ledger) -> bytes:
    also = tuple(name for name in ledger.names(row.content) if name != row.file)
    return (ascii_json(row.to_json(also)) + "\n").encode("ascii")


def _is_blank(path: Path) -> bool:
    """Nothing but zeros, which is what a power cut may leave of what was just written."""
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            if piece.strip(b"\0"):
                return False
    return True


def _is_ours(path: Path, *, whole: bool) -> bool:
    """Whether a batch wrote it, by its first line or as a whole. The last may be cut off."""
    with open(path, "rb") as file:
        line = file.readline(_LONGEST_LINE_BYTES)
        while line:
            if not _is_line(line):
                return False
            line = file.readline(_LONGEST_LINE_BYTES) if whole else b""
    return True


def _is_line(line: bytes) -> bool:
    if not line.startswith(_FIRST_BYTES[: len(line)]):
        return False
    try:
        found = json.loads(line)
    except ValueError:
        return not line.endswith(b"\n")
    return isinstance(found, dict) and found.keys() >= _KEYS
