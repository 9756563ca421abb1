"""Thumbnails kept in the ledger of an output that is only being read; knows not how one is made."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Self

from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.lock import Lock

TOGETHER = 200
"""So many are written at once, about 1 MB: a batch is kept from its output for an instant."""


class LedgerShelf:
    """Reads from a ledger that is open; writes under the output's lock, a few times.

    While somebody else works on the output, or where its folder may not be written, nothing is
    kept, and nothing is said: it is decoded again the next time. Leave the `with` block to keep
    the last ones.
    """

    def __init__(self, output: str, ledger: Ledger) -> None:
        self._output, self._ledger = output, ledger
        self._new: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write()

    def thumbnail(self, content: str) -> bytes | None:
        return self._new.get(content) or self._ledger.thumbnail(content)

    def keep_thumbnail(self, content: str, jpeg: bytes) -> None:
        self._new[content] = jpeg
        if len(self._new) >= TOGETHER:
            self._write()

    def _write(self) -> None:
        new, self._new = self._new, {}
        if not new:
            return
        with (
            suppress(LedgerError),
            Lock.take(self._output),
            Ledger.open(ledger_of(self._output), busy_seconds=1.0) as ledger,
            ledger.together(),
        ):
            for content, jpeg in new.items():
                ledger.keep_thumbnail(content, jpeg)
