"""A process that records rows until it is killed: python recorder.py OUTPUT ROWS.

Goes on where the last one stopped. Prints each row's id once it is acknowledged.
"""

from __future__ import annotations

import sys

from tokenreduce.batch.exporting import Projection, begun
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.lock import Lock
from tokenreduce.batch.rows import Failure, Row, content_of_name, id_of, key_of

SETTINGS = "5e" * 32


def row(number: int) -> Row:
    """Every seventh is a failure, and every third one long enough for several pages."""
    question = f"Question {number}?"
    key = key_of(f"{number:064x}", question, SETTINGS)
    failed = number % 7 == 0
    answer = {"question": question, "answer": "star " * (number % 3 * 2000)}
    return Row(
        id=id_of(key),
        key=key,
        settings=SETTINGS,
        content=f"{number:064x}",
        file=f"clips/{number}.mp4",
        question=question,
        status="failed" if failed else "answered",
        attempts=1,
        started="2026-01-02T03:04:05.006Z",
        finished="2026-01-02T03:04:06.007Z",
        host="here",
        worker="cpu",
        answer=None if failed else answer,
        failure=Failure("InputError", "no video") if failed else None,
    )


def placeholder(number: int) -> str:
    """The id of the row that stands for number n until it can be read."""
    return id_of(key_of(content_of_name(f"clips/{number}.mp4"), "?", SETTINGS))


def main(output: str, rows: int) -> None:
    with Lock.take(output):
        path = ledger_of(output)
        ledger = Ledger.open(path) if begun(output) else Ledger.create(path)
        with ledger, Projection(output, ledger) as projection:
            ledger.add_settings(SETTINGS, {"preset": "fast"}, {"preset": "fast"})
            projection.rewrite()
            for number in range(rows):
                one = row(number)
                if ledger.stand(one.id, SETTINGS) is not None:
                    continue
                ledger.name(one.content, one.file)
                if number % 5 == 0:
                    ledger.name(one.content, f"links/{number}.mp4")
                ledger.record(one, forget=placeholder(number))
                sys.stdout.write(one.id + "\n")
                sys.stdout.flush()
                projection.append(one)
            projection.finish()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
