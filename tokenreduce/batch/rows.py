"""One question about one file, answered or failed: a row, and what tells it from any other.

Knows neither the database that keeps rows nor the files they are exported to.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["answered", "failed"]

ID_DIGITS = 16
"""Of the key, where the user gave no id. 10^9 rows share one by chance once in 40 tries."""


def key_of(content: str, question: str, settings: str) -> str:
    """What makes two rows the same: 64 hexadecimal digits.

    content   the digest of the whole file (`cache.digest`), so that a renamed file is the same one
    settings  the digest of all that changes an answer (`recipe.Recipe.digest`)
    """
    told = hashlib.blake2b(digest_size=32, person=b"tokenreduce row")
    for part in (content, question, settings):
        data = part.encode("utf-8", "surrogatepass")
        told.update(len(data).to_bytes(8, "little") + data)
    return told.hexdigest()


def content_of_name(path: str) -> str:
    """In place of a digest, for a file that cannot be read: of its name, and no file's content."""
    return "name:" + hashlib.blake2b(path.encode("utf-8", "surrogateescape")).hexdigest()[:57]


def id_of(key: str) -> str:
    """The id of a row that was given none."""
    return key[:ID_DIGITS]


def now() -> str:
    """UTC, ISO 8601 to the millisecond. For people: nothing is ordered by it."""
    seconds = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


@dataclass(frozen=True)
class Failure:
    """kind: the error's type, such as InputError, Timeout or WorkerDied; reason: one line."""

    kind: str
    reason: str


@dataclass(frozen=True)
class SteppedDown:
    """The device's memory did not suffice, so it was asked again with half of both."""

    frames: int
    budget: int


@dataclass(frozen=True)
class Row:
    """A question about a file, as it ended.

    id        given by the user, or `id_of(key)`; with `settings`, no two rows have the same
    key       of `key_of`
    settings  digest of the settings, 64 hexadecimal digits
    content   digest of the file, or `content_of_name` where it could not be read
    file      its name when it was asked, bytes that are no UTF-8 as surrogates
    attempts  how often it was tried, over all runs
    started, finished   of the last attempt, see `now`
    host, worker        who tried it last
    answer    the object of `ask --json`; None if it failed
    failure   None if it was answered
    trace     of a failure that is a bug, Python's traceback; not exported
    """

    id: str
    key: str
    settings: str
    content: str
    file: str
    question: str
    status: Status
    attempts: int
    started: str
    finished: str
    host: str
    worker: str
    answer: dict[str, Any] | None = None
    failure: Failure | None = None
    stepped_down: SteppedDown | None = None
    trace: str | None = None

    def to_json(self, also: tuple[str, ...] = ()) -> dict[str, Any]:
        """The exported object; docs/json.md documents it. also: other names of the same content."""
        failure, step = self.failure, self.stepped_down
        return {
            "id": self.id,
            "status": self.status,
            "file": self.file,
            "also": list(also),
            "error": failure and {"type": failure.kind, "reason": failure.reason},
            "attempts": self.attempts,
            "stepped_down": step and {"frames": step.frames, "budget": step.budget},
            "started": self.started,
            "finished": self.finished,
            "host": self.host,
            "worker": self.worker,
            "settings": self.settings[:ID_DIGITS],
            "key": self.key,
            **({"question": self.question, "answer": None} if self.answer is None else self.answer),
        }
