"""A row as columns of a database and back, with a check; knows nothing of the database.

Text is kept as text, so that people can read it with any tool; text that is no Unicode, such as a
file name of other bytes, as bytes. SQLite does not notice a flipped bit: the check does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from tokenreduce.batch.rows import Failure, Row, SteppedDown

Column = str | bytes | int | None

COLUMNS = (
    "id",
    "settings",
    "key",
    "content",
    "file",
    "question",
    "status",
    "attempts",
    "started",
    "finished",
    "host",
    "worker",
    "answer",
    "failure",
    "reason",
    "frames",
    "budget",
    "trace",
)


def stored(text: str) -> str | bytes:
    """Any text, as it is kept: equal ones are kept equal, and no two others are."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def restored(column: str | bytes) -> str:
    return column.decode("utf-8", "surrogatepass") if isinstance(column, bytes) else column


def ascii_json(value: Any) -> str:
    """On one line. Raises ValueError or TypeError if JSON cannot say it, NaN included."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def to_columns(row: Row) -> tuple[Column, ...]:
    """In the order of COLUMNS. Raises ValueError or TypeError if JSON cannot say the answer."""
    failure, step = row.failure, row.stepped_down
    return (
        stored(row.id),
        stored(row.settings),
        stored(row.key),
        stored(row.content),
        stored(row.file),
        stored(row.question),
        row.status,
        row.attempts,
        row.started,
        row.finished,
        stored(row.host),
        stored(row.worker),
        None if row.answer is None else ascii_json(row.answer),
        None if failure is None else stored(failure.kind),
        None if failure is None else stored(failure.reason),
        None if step is None else step.frames,
        None if step is None else step.budget,
        None if row.trace is None else stored(row.trace),
    )


def from_columns(columns: Sequence[Any]) -> Row:
    """Of columns that `check_of` found sound."""
    (id, settings, key, content, file, question) = map(restored, columns[:6])
    (status, attempts, started, finished, host, worker) = columns[6:12]
    (answer, kind, reason, frames, budget, trace) = columns[12:]
    return Row(
        id=id,
        key=key,
        settings=settings,
        content=content,
        file=file,
        question=question,
        status=status,
        attempts=attempts,
        started=started,
        finished=finished,
        host=restored(host),
        worker=restored(worker),
        answer=None if answer is None else json.loads(answer),
        failure=None if kind is None else Failure(restored(kind), restored(reason)),
        stepped_down=None if frames is None else SteppedDown(frames, budget),
        trace=None if trace is None else restored(trace),
    )


def check_of(columns: Sequence[Any]) -> bytes:
    """16 bytes that tell whether the columns are still what they were."""
    return hashlib.blake2b(repr(tuple(columns)).encode("utf-8"), digest_size=16).digest()
