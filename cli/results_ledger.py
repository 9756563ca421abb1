"""The ledger of an output, opened to be read, and its rows as they are told; prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenreduce.errors import InputError

if TYPE_CHECKING:
    from tokenreduce.batch.ledger import Ledger
    from tokenreduce.batch.rows import Status
    from tokenreduce.batch.tables import Told


def opened(out: str) -> Ledger:
    """Of the output `out`. Raises InputError, or LedgerError, if it has none of ours."""
    from tokenreduce.batch.ledger import Ledger, ledger_of
    from tokenreduce.video.inputs import shown

    path = ledger_of(out)
    if not path.exists():
        of = out.removesuffix(str(ledger_of("")))
        hint = f"give its output, {shown(of)}" if of != out else "give the output of a batch"
        raise InputError(f"{shown(out)}: has no ledger beside it ({shown(path)}); {hint}")
    return Ledger.open(path, readonly=True)


def told(ledger: Ledger, status: Status | None = None) -> Iterator[Told]:
    """Rows with the other names of their files' contents, one at a time."""
    content, names = None, tuple[str, ...]()
    for row in ledger.rows(status=status):
        if row.content != content:  # rows of one file mostly follow each other
            content, names = row.content, ledger.names(row.content)
        yield row, tuple(name for name in names if name != row.file)
