"""One run of a batch, from a listing to an exit code: what is opened, in which order, and who hears
of Ctrl-C. Knows no options."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tokenreduce.batch.driver import Driver
from tokenreduce.batch.feeding import Feed, Memos
from tokenreduce.batch.happenings import Planned
from tokenreduce.batch.jobs import Job
from tokenreduce.batch.ledger import Settings
from tokenreduce.batch.output import Output
from tokenreduce.batch.owing import Owing
from tokenreduce.batch.policy import Outcome, Policy
from tokenreduce.batch.pool import Pool
from tokenreduce.batch.recipe import differences
from tokenreduce.batch.sources import Listing
from tokenreduce.cache.store import Cache
from tokenreduce.errors import SettingError
from tokenreduce.video.inputs import shown

from . import render
from .batch_view import BatchView
from .batch_workers import check_device, hired
from .interrupts import INTERRUPTED
from .sessions import recipe_of
from .settings import Chosen
from .watch import Watch

FAILURES = 3
NOTHING = 4
TERMINATED = 143  # 128 + SIGTERM


class Run:
    """numbers: retries, timeout, max_failures, workers, cluster; None where nothing was given."""

    def __init__(
        self,
        output: str,
        chosen: Mapping[str, Chosen],
        numbers: Mapping[str, Any],
        *,
        quiet: bool,
    ) -> None:
        self._output = output
        self._recipe = recipe_of({name: one.value for name, one in chosen.items()})
        self._given = {
            name: str(one.value) for name, one in chosen.items() if one.source != "default"
        }
        self._numbers = numbers
        self._quiet = quiet

    def over(
        self,
        listing: Listing,
        *,
        new: bool = False,
        mix: bool = False,
        again: Settings | None = None,
    ) -> int:
        """Asks what is listed and not there yet; the exit code. again: failed rows, too, which
        were asked with these settings. Raises SettingError where they are others by now."""
        check_device(self._recipe, self._numbers, quiet=self._quiet)
        with Watch(quiet=self._quiet, stream=False) as watch:
            self._recipe.check(watch)
        if again is not None:
            self._require(again)
        with (
            hired(self._recipe, self._numbers, listing, quiet=self._quiet) as pool,
            Output.open(self._output, self._recipe, self._given, new=new, mix=mix) as output,
        ):
            if output.moved is not None and not self._quiet:
                render.show(f"what was there is now {shown(output.moved)}")
            output.projection.rewrite()
            with BatchView(quiet=self._quiet) as view:
                view(Planned(listing.files, listing.rows, pool.workers))
                try:
                    outcome, number = self._run(
                        listing.jobs, output, pool, view, again=again is not None
                    )
                finally:
                    output.finish()
                view.summary(shown(output.path), shown(output.ledger.path))
        return _code(outcome, number)

    def _run(
        self,
        jobs: Sequence[Job],
        output: Output,
        pool: Pool,
        view: BatchView,
        *,
        again: bool,
    ) -> tuple[Outcome, int | None]:
        """How it ended, and by which signal."""
        memo = self._memo(output)
        owing = Owing(output.ledger, self._recipe.digest, again=again)
        driver = Driver(output.ledger, output.projection, owing, pool, self._policy, view)
        try:
            with Feed(jobs, memo) as feed, _signals(driver) as number:
                outcome = driver.run(feed)
                return outcome, number()
        finally:
            pool.close()

    def _require(self, asked_with: Settings) -> None:
        """What was given may mean something else by now: a preset's file, a model's folder."""
        if asked_with.digest != self._recipe.digest:
            raise SettingError(
                f"{shown(self._output)}: its failed rows were asked with other settings; now "
                f"{differences(asked_with.facts, self._recipe.facts)}. Put that back as it was, or "
                "run the batch again with --mix, which asks all rows with the new ones"
            )

    @property
    def _policy(self) -> Policy:
        given = self._numbers
        seconds = Policy.timeout_seconds if given["timeout"] is None else given["timeout"]
        return Policy(given["retries"] or 0, given["max_failures"], seconds or None)

    def _memo(self, output: Output) -> Memos:
        """The cache's, too, so that a worker need not read a file again to know it."""
        folder = self._recipe.cache_folder
        return Memos((output.ledger,) if folder is None else (output.ledger, Cache(Path(folder))))


@contextmanager
def _signals(driver: Driver) -> Iterator[Callable[[], int | None]]:
    """Ctrl-C and SIGTERM go to the driver; which of them came first."""
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        driver.interrupt()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _code(outcome: Outcome, number: int | None) -> int:
    if outcome.stopped == "interrupted":
        return TERMINATED if number == signal.SIGTERM else INTERRUPTED
    if outcome.failed or outcome.known_failed:
        return FAILURES
    return 0 if outcome.answered else NOTHING
