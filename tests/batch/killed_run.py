"""A run of a driver with stub workers, in a process that is meant to be killed: FOLDER FILES."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tokenreduce.batch.driver import Driver
from tokenreduce.batch.exporting import Projection
from tokenreduce.batch.feeding import Feed
from tokenreduce.batch.jobs import Asked, Job
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.lock import Lock
from tokenreduce.batch.owing import Owing
from tokenreduce.batch.rows import Failure


def main(folder: Path, files: int) -> None:
    stub = runpy.run_path(str(Path(__file__).with_name("stub_pool.py")))["StubPool"]

    def behave(file: str, question: str) -> str | Failure:
        number = int(file.split(".", maxsplit=1)[0])
        return Failure("InputError", "no video") if number % 7 == 3 else f"{file} {question}"

    output = folder / "out.jsonl"
    asked = (Asked("Q?"), Asked("R?"))
    jobs = [Job(str(folder / f"{n}.mp4"), asked) for n in range(files)]
    path = ledger_of(output)
    with Lock.take(output), Ledger.open(path) if path.exists() else Ledger.create(path) as ledger:
        ledger.add_settings("77" * 32, {}, {})
        with Projection(output, ledger) as projection, Feed(jobs, ledger) as feed:
            projection.rewrite()
            sys.stdout.write("begun\n")
            sys.stdout.flush()
            Driver(ledger, projection, Owing(ledger, "77" * 32), stub(behave)).run(feed)
            projection.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
