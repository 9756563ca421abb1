"""Rows of a batch as lines for a terminal or a pipe; knows neither ledgers nor files."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator

from tokenreduce.batch.rows import Row

from . import render
from .safe import draws_unicode, escaped

HEAD = ("file", "question", "answer", "tokens", "seconds")
_FIGURE = 8  # columns of each of the two figures
_GAP = 2
_NARROW = 72  # columns below which a row takes several lines
_INDENT = 2


def shown_rows(rows: Iterable[Row], *, full: bool) -> None:
    """On stdout, one row at a time however many there are."""
    if not sys.stdout.isatty():
        lines = piped(rows)
    else:
        import os

        width = shutil.get_terminal_size().columns
        end = "…" if draws_unicode(sys.stdout, os.environ, sys.platform) else "..."
        if full or width < _NARROW:
            lines = stacked(rows, width, None if full else end)
        else:
            lines = tabled(rows, width, end)
    for line in lines:
        render.raw(line + "\n")


def piped(rows: Iterable[Row]) -> Iterator[str]:
    """Nothing cut, a tab between columns: in a cell, tabs and line breaks are escapes."""
    yield "\t".join(HEAD)
    for row in rows:
        yield "\t".join(_cells(row))


def tabled(rows: Iterable[Row], width: int, end: str) -> Iterator[str]:
    """A line for each row, within `width` columns. end: of what had to be cut."""
    room = width - 2 * _FIGURE - (len(HEAD) - 1) * _GAP
    widths = (room * 3 // 10, room * 3 // 10, room - 2 * (room * 3 // 10))
    yield _laid(HEAD, widths, end)
    for row in rows:
        yield _laid(_cells(row), widths, end)


def _laid(cells: tuple[str, ...], widths: tuple[int, ...], end: str) -> str:
    *texts, tokens, seconds = cells
    gap = " " * _GAP
    fitted = [_fitted(text, width, end) for text, width in zip(texts, widths, strict=True)]
    return gap.join([*fitted, f"{tokens:>{_FIGURE}}", f"{seconds:>{_FIGURE}}"])


def stacked(rows: Iterable[Row], width: int, end: str | None) -> Iterator[str]:
    """A file, its question and its answer below each other. end None: wrapped, and nothing cut."""
    from rich.cells import chop_cells

    room = max(width - _INDENT, 10)
    for row in rows:
        file, question, answer, tokens, seconds = _cells(row)
        cost = f"{tokens} tokens, {seconds} s" if tokens else ""
        texts = (file, room + _INDENT), (question, room), (answer, room), (cost, room)
        for text, most in texts:
            before = "" if most > room else " " * _INDENT
            if end is not None:
                lines = [_fitted(text, most, end).rstrip()]
            else:
                lines = chop_cells(text, most)
            yield from (before + line for line in lines if line)


def _fitted(text: str, width: int, end: str) -> str:
    """Exactly `width` columns, of which some characters take two and some none."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > width:
        text = set_cell_size(text, width - len(end)).rstrip() + end
    return set_cell_size(text, width)


def _cells(row: Row) -> tuple[str, ...]:
    """As HEAD says, each one safe line; of a failed row the reason instead of an answer."""
    if row.answer is None:
        failure = row.failure
        reason = f"failed: {failure.kind}: {failure.reason}" if failure else "failed"
        return escaped(row.file), escaped(row.question), escaped(reason), "", ""
    answer = row.answer
    tokens = (answer.get("tokens") or {}).get("merged")
    seconds = (answer.get("seconds") or {}).get("total")
    return (
        escaped(row.file),
        escaped(row.question),
        escaped(str(answer.get("answer", ""))),
        "" if tokens is None else f"{tokens}",
        "" if seconds is None else f"{seconds:.2f}",
    )
