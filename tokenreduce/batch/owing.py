"""Which rows of a job are still to be asked, and which are there: by what is in the ledger.

Knows neither workers nor how anything is asked.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, replace

from tokenreduce.batch.feeding import Offer
from tokenreduce.batch.jobs import Asked, Task, Wanted
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.rows import Failure, Row, content_of_name, id_of, key_of, now
from tokenreduce.cache.digest import Digest


@dataclass(frozen=True)
class Planned:
    """What became of an offer. task: None where nothing is left to ask; known, failed: rows that
    are there or on the way under another name, and how many of them as failures; unread: rows of a
    file that cannot be read; copied: rows answered under another id."""

    task: Task | None
    known: int = 0
    failed: int = 0
    unread: tuple[Row, ...] = ()
    copied: tuple[Row, ...] = ()


@dataclass
class Owing:
    """Turns offers into tasks, each row once.

    again: rows that failed before are asked again, too
    """

    ledger: Ledger
    settings: str
    again: bool = False
    _number: int = 0
    _asking: set[str] = field(default_factory=set)  # keys
    _coming: dict[str, set[str]] = field(default_factory=dict)  # by id, what goes when it is there
    _followers: dict[str, list[Row]] = field(default_factory=dict)

    def plan(self, offer: Offer) -> Planned:
        job, digest = offer.job, offer.digest
        content = content_of_name(job.path) if digest is None else digest.value
        wanted, unread, copied, known, failed = [], [], [], 0, 0
        for asked in job.asked:
            key = key_of(content, asked.question, self.settings)
            id = asked.id or id_of(key)
            stand = self.ledger.stand(id, self.settings)
            tried = stand.attempts if stand is not None and stand.key == key else 0
            goes = self._goes(id, asked, job.path, digest)
            if stand is not None and stand.key == key and not self._anew(stand.status):
                known, failed = known + 1, failed + (stand.status == "failed")
                self._forget(goes)
                continue
            if id in self._coming or (digest is None and self._keeps(id, job.path, asked.question)):
                known += 1
                self._coming.get(id, set()).update(goes)
                continue
            row = self._blank(id, key, content, job.path, asked, tried)
            self._coming[id] = goes
            if digest is None:
                failure = Failure("InputError", offer.reason)
                unread.append(replace(row, failure=failure, attempts=tried + 1))
            elif key in self._asking:  # the same under a name of its own: the answer will do
                self._followers.setdefault(key, []).append(row)
            elif (found := self.ledger.answered(key)) is not None:
                copied.append(_copied(found, row))
            else:
                self._asking.add(key)
                wanted.append(Wanted(id, key, asked.question, tried))
        if digest is not None:
            self.ledger.name(content, job.path)
        task = self._task(job.path, digest, wanted) if digest is not None and wanted else None
        return Planned(task, known, failed, tuple(unread), tuple(copied))

    def placeholder(self, path: str, question: str) -> str:
        """The id of the row that stands for this question while the file could not be read."""
        return id_of(key_of(content_of_name(path), question, self.settings))

    def unread(self, row: Row) -> Row:
        """A failure, as of the file's name: it is not about the content that was to be asked. The
        next run asks whatever is there by then."""
        content = content_of_name(row.file)
        key = key_of(content, row.question, self.settings)
        id = id_of(key) if row.id == id_of(row.key) else row.id
        return replace(row, content=content, key=key, id=id)

    def ended(self, row: Row, wanted: Wanted | None = None) -> tuple[Row, ...]:
        """Told of a row that is recorded, and as what it was wanted if that is something else: the
        rows that waited for it."""
        id, key = (row.id, row.key) if wanted is None else (wanted.id, wanted.key)
        self._asking.discard(key)
        self._forget(self._coming.pop(id, set()) - {row.id})
        return tuple(_copied(row, one) for one in self._followers.pop(key, ()))

    def _goes(self, id: str, asked: Asked, path: str, digest: Digest | None) -> set[str]:
        """Ids of failed rows that say nothing any more once the row with this id is there."""
        goes = set() if asked.replaces is None else {asked.replaces}
        if digest is not None and asked.id is None:
            goes.add(self.placeholder(path, asked.question))
        return goes - {id}

    def _forget(self, ids: set[str]) -> None:
        for id in ids:
            self.ledger.forget(id, self.settings)

    def _keeps(self, id: str, path: str, question: str) -> bool:
        """Whether the row with this id is the answer about the file of that name: one that cannot
        be read for now, as on a disk that is not there, takes no answer with it."""
        row = self.ledger.find(id, self.settings)
        if row is None or row.status != "answered" or row.question != question:
            return False
        return path in (row.file, *self.ledger.names(row.content))

    def _anew(self, status: str) -> bool:
        return self.again and status == "failed"

    def _blank(
        self, id: str, key: str, content: str, path: str, asked: Asked, attempts: int
    ) -> Row:
        return Row(
            id=id,
            key=key,
            settings=self.settings,
            content=content,
            file=path,
            question=asked.question,
            status="failed",
            attempts=attempts,
            started=now(),
            finished=now(),
            host=socket.gethostname(),
            worker="",
        )

    def _task(self, path: str, digest: Digest, wanted: list[Wanted]) -> Task:
        self._number += 1
        return Task(self._number, path, digest, tuple(wanted))


def _copied(row: Row, under: Row) -> Row:
    """The same answer, or failure, under another id and perhaps another name."""
    return replace(row, id=under.id, file=under.file)
