"""`tokenreduce results retry`: the failed rows of an output, asked again as they were asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from tokenreduce.batch.jobs import Asked, Job
from tokenreduce.batch.ledger import Ledger, Settings, ledger_of
from tokenreduce.batch.rows import Row, id_of
from tokenreduce.batch.sources import Listing

from . import render
from .batch_run import NOTHING, Run
from .settings import resolve


def retried(output: str, numbers: Mapping[str, Any]) -> int:
    """The exit code of the last of the settings that had failed rows; NOTHING if none had."""
    with closing(Ledger.open(ledger_of(output), readonly=True)) as ledger:
        found = [(one, _listing(ledger, one)) for one in ledger.settings().values()]
    code = NOTHING
    for settings, listing in found:
        if listing.rows:
            chosen = resolve(settings.given, {})
            code = Run(output, chosen, numbers, quiet=False).over(listing, again=True)
    if code == NOTHING:
        render.show("no row has failed")
    return code


def _listing(ledger: Ledger, settings: Settings) -> Listing:
    """The failed rows of these settings, file by file."""
    asked: dict[str, list[Asked]] = {}
    for row in ledger.rows(status="failed", settings=settings.digest):
        asked.setdefault(row.file, []).append(Asked(row.question, _given_id(row)))
    jobs = tuple(Job(file, tuple(each)) for file, each in asked.items())
    return Listing(jobs, len(jobs), sum(len(job.asked) for job in jobs), 0, ())


def _given_id(row: Row) -> str | None:
    """An id that was made from the key would be another if the file is."""
    return None if row.id == id_of(row.key) else row.id
