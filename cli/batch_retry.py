"""`tokenreduce results retry`: the failed rows of an output, asked again as they were asked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from tokenreduce.batch.jobs import Asked, Job
from tokenreduce.batch.ledger import Ledger, Settings, ledger_of
from tokenreduce.batch.rows import id_of
from tokenreduce.batch.sources import Listing
from tokenreduce.errors import InputError
from tokenreduce.video.inputs import shown

from . import render
from .batch_run import FAILURES, NOTHING, TERMINATED, Run
from .interrupts import INTERRUPTED
from .settings import resolve


def retried(output: str, numbers: Mapping[str, Any]) -> int:
    """The exit code, as of one run over all settings that had failed rows; NOTHING if none had."""
    with closing(Ledger.open(ledger_of(output), readonly=True)) as ledger:
        found = [(one, _listing(ledger, one)) for one in ledger.settings().values()]
        _check_here(ledger, [job.path for _, listing in found for job in listing.jobs])
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


def _check_here(ledger: Ledger, files: Sequence[str]) -> None:
    """Raises InputError where all are named relative to a folder that is not this one, for nothing
    of the batch is here: every row would only lose the reason why it failed."""
    if any(os.path.isabs(file) or os.path.lexists(file) for file in files):
        return
    if files and not any(os.path.lexists(row.file) for row in ledger.rows(status="answered")):
        more = f" and of {len(files) - 1:,} more" if len(files) > 1 else ""
        raise InputError(
            f"{shown(files[0])}: there is nothing of that name here{more}; the names are relative "
            "to the folder in which the batch ran: retry there"
        )


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
