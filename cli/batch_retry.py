"""`tokenreduce results retry`: the failed rows of an output, asked again as they were asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from tokenreduce.batch.jobs import Asked, Job
from tokenreduce.batch.ledger import Ledger, Settings, ledger_of
from tokenreduce.batch.rows import id_of
from tokenreduce.batch.sources import Listing

from . import render
from .batch_run import FAILURES, NOTHING, TERMINATED, Run
from .interrupts import INTERRUPTED
from .settings import resolve


def retried(output: str, numbers: Mapping[str, Any]) -> int:
    """The exit code, as of one run over all settings that had failed rows; NOTHING if none had."""
    with closing(Ledger.open(ledger_of(output), readonly=True)) as ledger:
        found = [(one, _listing(ledger, one)) for one in ledger.settings().values()]
    codes = set[int]()
    for settings, listing in found:
        if listing.rows:
            chosen = resolve(settings.given, {})
            run = Run(output, chosen, numbers, quiet=False)
            codes.add(run.over(listing, again=settings))
        if ended := codes & {INTERRUPTED, TERMINATED}:
            return ended.pop()
    if not codes:
        render.show("no row has failed")
    return next((code for code in (FAILURES, 0) if code in codes), NOTHING)


def _listing(ledger: Ledger, settings: Settings) -> Listing:
    """The failed rows of these settings, file by file."""
    asked: dict[str, list[Asked]] = {}
    for row in ledger.rows(status="failed", settings=settings.digest):
        # An id that was made from the key is another if the file is: the failure goes then.
        made = row.id == id_of(row.key)
        one = Asked(row.question, replaces=row.id) if made else Asked(row.question, row.id)
        asked.setdefault(row.file, []).append(one)
    jobs = tuple(Job(file, tuple(each)) for file, each in asked.items())
    return Listing(jobs, len(jobs), sum(len(job.asked) for job in jobs), 0, ())
