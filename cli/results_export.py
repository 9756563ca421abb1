"""`tokenreduce results export`: the rows of a batch as CSV, as Parquet or as a page to look at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from typer.core import TyperCommand

from tokenreduce.errors import SettingError

from . import render
from .results_ledger import opened, told

if TYPE_CHECKING:
    from tokenreduce.batch.ledger import Ledger
    from tokenreduce.batch.thumbnails import Thumbnails

STDOUT = "-"
MANY_ROWS = 20_000
"""More on one page than a browser lays out within a few seconds."""

_FORMATS = ("csv", "parquet", "html")
_OUTPUTS = (".jsonl", ".ndjson", ".json")


class BareFormats(TyperCommand):
    """Lets --csv, --parquet and --html stand without a FILE, which typer's own options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, named(args))


def named(args: list[str]) -> list[str]:
    """Arguments in which each format that is given no FILE is given an empty one.

    >>> named(["out.jsonl", "--csv", "--html", "page.html"])
    ['out.jsonl', '--csv=', '--html', 'page.html']
    """
    flags = {f"--{one}" for one in _FORMATS}
    found = list(args)
    for i, arg in enumerate(args):
        if arg == "--":
            break
        following = args[i + 1] if i + 1 < len(args) else "--"
        if arg in flags and following != STDOUT and following.startswith("-"):
            found[i] = f"{arg}="
    return found


@dataclass(frozen=True)
class Target:
    """format: one of _FORMATS; path: a file, or STDOUT."""

    format: str
    path: str


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
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            metavar="",
            help="Pictures on the page, of files that are still as they were asked about. "
            "Default: with.",
        ),
    ] = True,
) -> None:
    """Write a batch's rows as CSV, Parquet or HTML; several at once are fine.

    In CSV a ' stands before text that a spreadsheet would run as a formula: text that begins with
    = + - @ or a tab, or with ' itself.
    """
    from tokenreduce.batch import placing
    from tokenreduce.batch.tables import check_parquet

    targets = list(_targets(out, {"csv": csv, "parquet": parquet, "html": html}))
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
                        count = _html(ledger, file, out, thumbnails=thumbnails)
            _report(target, count)


def _targets(out: str, given: dict[str, str | None]) -> Iterator[Target]:
    """Raises SettingError for none, and for two at the same place."""
    taken: dict[str, str] = {}
    for name, path in given.items():
        if path is None:
            continue
        place = path or beside(out, name)
        key = place if place == STDOUT else os.path.realpath(place)
        if key in taken:
            raise SettingError(
                f"--{taken[key]} and --{name} would go to the same place; name another FILE"
            )
        if place == STDOUT and name == "parquet" and sys.stdout.isatty():
            raise SettingError(
                "--parquet -: bytes on a terminal are of no use; name a file, or pipe them on"
            )
        taken[key] = name
        yield Target(name, place)
    if not taken:
        raise SettingError("nothing to export to: give --csv, --parquet or --html, or several")


def beside(out: str, format: str) -> str:
    """Where a format goes that was given no FILE.

    >>> beside("runs/answers.jsonl", "csv"), beside("answers.v2", "html")
    ('runs/answers.csv', 'answers.v2.html')
    """
    stem, suffix = os.path.splitext(out)
    return f"{stem if suffix.lower() in _OUTPUTS else out}.{format}"


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
    from tokenreduce.batch.tables import write_parquet

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
