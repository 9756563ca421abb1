"""`tokenreduce results export`: the rows of a batch as CSV, as Parquet or as a page to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from . import render
from .results_ledger import opened, told
from .results_targets import STDOUT, Target, targets_of

if TYPE_CHECKING:
    from tokenreduce.batch.ledger import Ledger
    from tokenreduce.batch.thumbnails import Thumbnails

MANY_ROWS = 20_000
"""More on one page than a browser lays out within a few seconds."""


def export(
    out: Annotated[
        str,
        typer.Argument(metavar="OUT", help="The batch's output, such as answers.jsonl."),
    ],
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv",
            metavar="[FILE]",
            help="Comma-separated values, a line a row. Without FILE beside OUT; -: stdout. "
            "Default: none.",
        ),
    ] = None,
    parquet: Annotated[
        str | None,
        typer.Option(
            "--parquet",
            metavar="[FILE]",
            help="A Parquet table with typed columns. Without FILE beside OUT; -: stdout. "
            "Default: none.",
        ),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            "--html",
            metavar="[FILE]",
            help="One page that needs nothing else, with a picture of each file. Without FILE "
            "beside OUT; -: stdout. Default: none.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", metavar="", help="Replace files. Default: one that exists is an error."
        ),
    ] = False,
    bom: Annotated[
        bool,
        typer.Option(
            "--bom",
            metavar="",
            help="Begin the CSV with a byte order mark, by which Excel knows UTF-8. "
            "Default: without.",
        ),
    ] = False,
    no_thumbnails: Annotated[
        bool,
        typer.Option(
            "--no-thumbnails",
            metavar="",
            help="No pictures on the page. Default: one of each file that is still as it was.",
        ),
    ] = False,
) -> None:
    """Write a batch's rows as CSV, Parquet or HTML; several at once are fine.

    In CSV, text that begins with = + - @, a tab or ' gets a ' in front, so that nothing is run.
    """
    from tokenreduce.batch import placing
    from tokenreduce.batch.parquet import check_parquet

    targets = list(targets_of(out, {"csv": csv, "parquet": parquet, "html": html}))
    with closing(opened(out)) as ledger:
        if parquet is not None:
            check_parquet()
        for target in targets:
            if target.path != STDOUT:
                placing.check(target.path, force=force)
        for target in targets:
            with _writing(target, force=force) as file:
                match target.format:
                    case "csv":
                        count = _csv(ledger, file, bom=bom)
                    case "parquet":
                        count = _parquet(ledger, file)
                    case _:
                        count = _html(ledger, file, out, thumbnails=not no_thumbnails)
            _report(target, count)


@contextmanager
def _writing(target: Target, *, force: bool) -> Iterator[BinaryIO]:
    from tokenreduce.batch.placing import placed

    if target.path == STDOUT:
        with render.data() as file:
            yield file
        return
    with placed(target.path, force=force) as file:
        yield file


@dataclass(frozen=True)
class _Text:
    """Text in UTF-8 on a file of bytes. Unlike io's own it neither buffers nor closes anything."""

    file: BinaryIO

    def write(self, text: str, /) -> int:
        return self.file.write(text.encode("utf-8"))


def _csv(ledger: Ledger, file: BinaryIO, *, bom: bool) -> int:
    from tokenreduce.batch.tables import write_csv

    return write_csv(_Text(file), told(ledger), bom=bom)


def _parquet(ledger: Ledger, file: BinaryIO) -> int:
    from tokenreduce.batch.parquet import write_parquet

    return write_parquet(file, told(ledger))


def _html(ledger: Ledger, file: BinaryIO, out: str, *, thumbnails: bool) -> int:
    from tokenreduce.batch.page import About, write_page
    from tokenreduce.batch.rows import now

    from .progress import counting

    about = About(out, now(), several=len(ledger.settings()) > 1)
    rows = ledger.counts().rows
    with counting("rows of the page") as tell, _pictures(ledger, out, thumbnails) as picture:
        count = write_page(
            _Text(file), told(ledger), about, picture, lambda done: tell(done, max(rows, done))
        )
    if count > MANY_ROWS:
        render.warning(
            f"a page of {count:,} rows is slow to open in a browser; --csv and --parquet have them "
            "too, results show --failed lists only some"
        )
    if picture is not None and picture.missing:
        render.show(
            f"no picture of {picture.missing:,} of {picture.asked:,} files: gone, changed, or not "
            "to be decoded"
        )
    return count


class _Pictures:
    """Asks for the picture of each file, and counts those that there are none of."""

    def __init__(self, made: Thumbnails, ledger: Ledger) -> None:
        self._made, self._ledger = made, ledger
        self.asked = self.missing = 0

    def __call__(self, content: str, name: str, started: str) -> bytes | None:
        found = self._made.of(content, dict.fromkeys((name, *self._ledger.names(content))), started)
        self.asked += 1
        self.missing += found is None
        return found


@contextmanager
def _pictures(ledger: Ledger, out: str, wanted: bool) -> Iterator[_Pictures | None]:
    if not wanted:
        yield None
        return
    from tokenreduce.batch.ledger_shelf import LedgerShelf
    from tokenreduce.batch.thumbnails import Thumbnails

    with LedgerShelf(out, ledger) as shelf, Thumbnails(shelf, ledger) as made:
        yield _Pictures(made, ledger)


def _report(target: Target, count: int) -> None:
    from .safe import escaped

    where = "stdout" if target.path == STDOUT else escaped(target.path)
    render.show(f"{count:,} row{'' if count == 1 else 's'} written to {where}")
