"""`tokenreduce results`: what a batch answered, shown, exported, merged, or asked again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from tokenreduce.errors import SettingError

from . import options_batch as b
from . import render
from .results_export import export
from .results_ledger import opened, told
from .results_targets import BareFormats

if TYPE_CHECKING:
    from tokenreduce.batch.ledger import Counts
    from tokenreduce.batch.rows import Status

results = typer.Typer(
    name="results",
    no_args_is_help=True,
    help="Show, export, merge or ask again what a batch answered.",
)

Out = Annotated[
    str,
    typer.Argument(
        metavar="OUT", help="The batch's output, such as answers.jsonl; its ledger lies beside it."
    ),
]


@results.command()
def show(
    out: Out,
    failed: Annotated[
        bool, typer.Option("--failed", metavar="", help="Only failed rows. Default: all rows.")
    ] = False,
    answered: Annotated[
        bool, typer.Option("--answered", metavar="", help="Only answered rows. Default: all rows.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            metavar="",
            help="Nothing is cut. Default: a row is one line of the terminal; a pipe gets all.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", metavar="", help="One JSON object a line. Default: a table."),
    ] = False,
) -> None:
    """List the rows on stdout, a line each; how many there are of which kind on stderr.

    Where stdout is no terminal, columns have a tab between them. --json gives one object a line.
    """
    from .results_table import shown_rows

    if failed and answered:
        raise SettingError("--failed and --answered: give one of them, or neither for all rows")
    status: Status | None = "failed" if failed else "answered" if answered else None
    with closing(opened(out)) as ledger:
        if as_json:
            for row, also in told(ledger, status):
                render.json_object(row.to_json(also))
        else:
            shown_rows((row for row, _ in told(ledger, status)), full=full)
        for line in _summary(ledger.counts(), out):
            render.show(line)


results.command(cls=BareFormats)(export)


@results.command()
def retry(
    out: Out,
    failed: Annotated[
        bool,
        typer.Option("--failed", metavar="", help="Ask all failed rows again. Default: none."),
    ] = False,
    retries: b.Retries = None,
    timeout: b.Timeout = None,
    workers: b.Workers = None,
    cluster: b.Cluster = None,
) -> None:
    """Ask failed rows again, with the settings they were asked with.

    Who works, and how long a file may take, is as in a batch, and need not be what it was then.
    """
    if not failed:
        raise SettingError("retry needs to know which rows: --failed asks all failed ones again")
    opened(out).close()  # so that an output of nobody's is told before anything is loaded
    from .batch import retry as ask_again

    ask_again(out, retries=retries, timeout=timeout, workers=workers, cluster=cluster)


@results.command()
def merge(
    parts: Annotated[
        list[str], typer.Argument(metavar="PART...", help="Outputs of batches, such as shards.")
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="ALL", help="The output to make. Default: none."),
    ],
) -> None:
    """Put the rows of several outputs, such as the shards of one batch, into one new output."""
    from tokenreduce.batch.merging import merge as together

    from .safe import escaped

    done = together(parts, output)
    line = (
        f"{done.rows:,} rows of {done.outputs:,} outputs in {escaped(output)}: "
        f"{done.answered:,} answered, {done.failed:,} failed"
    )
    render.show(line + (f"; {done.replaced:,} were there twice" if done.replaced else ""))


def _summary(counts: Counts, out: str) -> Iterable[str]:
    import shlex

    from .safe import escaped

    line = f"{counts.answered:,} answered, {counts.failed:,} failed"
    if not counts.failed:
        return [line]
    kinds = ", ".join(f"{count:,} {escaped(kind)}" for kind, count in counts.failures.items())
    again = f"tokenreduce results retry {shlex.quote(out)} --failed"
    return [f"{line}: {kinds}", f"to ask the failed ones again: {escaped(again)}"]
