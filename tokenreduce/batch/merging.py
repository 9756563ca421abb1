"""Several outputs into one, as after a batch in shards; knows nothing of asking."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tokenreduce.batch import durable
from tokenreduce.batch.exporting import begun, lines
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.ledger_base import Base
from tokenreduce.batch.ledger_faults import LedgerError, safe, system
from tokenreduce.batch.lock import Lock, require_free
from tokenreduce.batch.rows import Row
from tokenreduce.errors import InputError
from tokenreduce.video.inputs import shown

_ROWS_AT_ONCE = 200
_NAMED = "name:"
"""How `rows.content_of_name` begins."""


@dataclass(frozen=True)
class Merged:
    """outputs: how many were read; replaced: rows of theirs that another of the same id and
    settings stands for."""

    outputs: int
    rows: int
    answered: int
    failed: int
    replaced: int


def merge(outputs: Sequence[str | os.PathLike[str]], into: str | os.PathLike[str]) -> Merged:
    """All rows of `outputs` in a new output and ledger; theirs stay as they are.

    Of rows with the same id and settings an answered one stays before a failed one, then the one
    tried more often, then the later one, then the first. Raises InputError or LedgerError, one
    line, and leaves nothing, where an output is missing or being worked on, where the same id means
    different questions, where `into` is there already or cannot be written.
    """
    sources = _distinct(outputs)
    target, part = Path(into), Path(f"{ledger_of(into)}.merging")
    for source in sources:
        require_free(source)
    with Lock.take(target), ExitStack() as held:
        if begun(target):
            raise InputError(f"{shown(target)}: is there already; choose another name to merge to")
        Base.require_free(ledger_of(target))
        ledgers = [
            held.enter_context(Ledger.open(ledger_of(one), readonly=True)) for one in sources
        ]
        _remove(part)  # of a merge that was killed
        held.callback(_remove, part)
        with Ledger.create(part) as merged:
            replaced = sum(_take(merged, ledger) for ledger in ledgers)
            counts = merged.counts()
            _publish(merged, part, target)
    return Merged(len(sources), counts.rows, counts.answered, counts.failed, replaced)


def _distinct(outputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """As they are given, and each once: shells name a file twice easily."""
    found: dict[str, Path] = {}
    for output in outputs:
        ledger = ledger_of(output)
        if not ledger.exists():
            raise InputError(
                f"{shown(output)}: has no ledger {shown(ledger.name)} beside it; give the outputs "
                "of batches, as to -o, where they were written"
            )
        found.setdefault(os.path.realpath(ledger), Path(output))
    if not found:
        raise InputError("there is nothing to merge; give the outputs of one batch or more")
    return list(found.values())


def _take(merged: Ledger, other: Ledger) -> int:
    """How many rows gave way, of those that were there or of those that come."""
    replaced = 0
    rows = other.rows()
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        with merged.together():
            for row in some:
                if merged.stand(row.id, row.settings) is None:
                    merged.record(row)
                    continue
                replaced += 1
                there = merged.find(row.id, row.settings)
                if there is not None and _rank(row) > _rank(_same(there, row, other)):
                    merged.record(row)
    merged.take_over(other)
    return replaced


def _same(there: Row, row: Row, other: Ledger) -> Row:
    """`there`, if both are about the same. Ids that users gave may mean one thing in one questions
    file, and another in the next: then an answer would be lost."""
    unread = there.content.startswith(_NAMED) or row.content.startswith(_NAMED)
    moved = there.content != row.content and there.file != row.file and not unread
    if moved or there.question != row.question:
        raise InputError(
            f"{shown(other.path)}: the id {safe(row.id)} is there for {safe(row.file)} and in "
            f"another output for {safe(there.file)}, or with another question; give each its own "
            "id, or merge them apart"
        )
    return there


def _rank(row: Row) -> tuple[bool, int, str]:
    return row.status == "answered", row.attempts, row.finished


def _publish(merged: Ledger, part: Path, target: Path) -> None:
    """Both files are whole before either has its name."""
    ledger, named = ledger_of(target), False
    try:
        with system(target), durable.replacing(Path(os.path.realpath(target))) as file:
            file.writelines(lines(merged))
            file.flush()
            merged.close()  # from now on it is one file
            if part.with_name(part.name + "-wal").exists():
                raise LedgerError(
                    f"{shown(ledger)}: cannot be finished; check the space left on its disk and "
                    "merge again"
                )
            durable.name_new(part, ledger)
            named = True
    except BaseException:
        if named:
            _remove(ledger)
        raise


def _remove(ledger: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        with suppress(OSError):
            ledger.with_name(ledger.name + ending).unlink()
