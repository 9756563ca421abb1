"""What a batch came to, as lines of text for a given width; prints nothing, counts nothing."""

from __future__ import annotations

import shlex
import textwrap

from tokenreduce.batch.totals import STAGES, Sums

from .batch_lines import counted, per_minute
from .batch_tally import Tally
from .cost import laid_out, quantity, size
from .safe import escaped

_LABEL = len(laid_out("", "|")) - 1  # columns of the labels on the left, as in the cost table
_LONGEST = 100  # lines longer than this are hard to read on any terminal
_TIE = "\u00a0"  # holds a number and its unit or name together while lines are wrapped


def summary_lines(
    tally: Tally, wall: float, output: str, ledger: str, width: int
) -> list[tuple[str, str]]:
    """(label, line) for each line: the label, "" where a text goes on, and the line with it.

    ASCII but for names. Lines fit in `width` columns, from 40, but for paths and commands: those
    are never cut, so that they can be copied. wall: seconds of the whole run.
    """
    lines: list[tuple[str, str]] = []
    for label, text in _rows(tally, wall):
        lines += _wrapped(label, text, width)
    lines += _whole("output", escaped(output), width)
    lines += _whole("ledger", escaped(ledger), width)
    left, label = tally.total - tally.done, "next"
    # Of a run that ended by itself nothing is left: rows of one content are one.
    if left and tally.ending:
        rest = f"{counted(left, 'row')} left: run the same command again to go on"
        lines += _wrapped(label, rest, width)
        label = ""
    if tally.failed + tally.known_failed:
        lines += _wrapped(label, "failed rows stay failed until you ask them again:", width)
        retry = f"tokenreduce results retry {shlex.quote(output)} --failed"
        lines += _whole("", escaped(retry), width)
    return lines


def _rows(tally: Tally, wall: float) -> list[tuple[str, str]]:
    """Label and text of what was counted."""
    of = f"{tally.answered:,} of {counted(tally.total, 'row')}, {counted(tally.files, 'file')}"
    rows = [("answered", of)]
    if tally.failed:
        kinds = ", ".join(
            f"{escaped(kind)}{_TIE}{count:,}" for kind, count in tally.kinds.most_common()
        )
        rows.append(("failed", f"{tally.failed:,}: {kinds}"))
    if tally.known:
        failed = f", {tally.known_failed:,} of them failed" if tally.known_failed else ""
        rows.append(("known before", f"{tally.known:,}{failed}"))
    if tally.answered:
        rows += _spent(tally)
    spent = [_wall(wall)]
    if tally.asked and wall > 0:
        spent.append(per_minute(tally.asked / wall * 60))
    return [*rows, ("wall clock", ", ".join(part.replace(" ", _TIE) for part in spent))]


def _spent(tally: Tally) -> list[tuple[str, str]]:
    """What the answered rows took together."""
    sums = tally.sums
    # A worker that loads the model before its first row tells of it when it is ready; one that
    # loads it with the first row tells of it there, and perhaps twice.
    spent = {**sums.seconds, "load": max(sums.seconds["load"], tally.load_seconds)}
    seconds = ", ".join(f"{stage}{_TIE}{spent[stage]:,.2f}" for stage in STAGES)
    rows = [("seconds", f"{seconds}; summed over rows")]
    if sums.raw:
        share = f"{sums.merged / sums.raw:.1%}{_TIE}kept"
        rows.append(("visual tokens", f"{sums.raw:,} raw -> {sums.merged:,} merged ({share})"))
    if sums.unreduced:
        rows.append(("prefill", _prefill(sums)))
    peaks = [(sums.device_peak, "device"), (sums.host_peak, "host")]
    if told := [f"{size(peak)} {where}" for peak, where in peaks if peak is not None]:
        rows.append(("peak memory", f"{', '.join(told)}: the most of any row"))
    return rows


def _prefill(sums: Sums) -> str:
    less = f", {sums.unreduced / sums.spent:.1f}x{_TIE}less" if sums.spent else ""
    unreduced, spent = quantity(sums.unreduced, "FLOP"), quantity(sums.spent, "FLOP")
    return f"{unreduced} unreduced -> {spent} spent in the LLM{less}"


def _wall(seconds: float) -> str:
    """
    >>> _wall(83.24), _wall(4980), _wall(36000)
    ('83.2 s', '4,980 s (83 min)', '36,000 s (10.0 h)')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    long = f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return f"{seconds:,.0f} s ({long})"


def _wrapped(label: str, text: str, width: int) -> list[tuple[str, str]]:
    room = max(20, min(width, _LONGEST) - _LABEL)
    wrapped = textwrap.wrap(text, room, break_on_hyphens=False)
    labels = [label, *[""] * (len(wrapped) - 1)]
    return [
        (label, laid_out(label, line.replace(_TIE, " ")))
        for label, line in zip(labels, wrapped, strict=True)
    ]


def _whole(label: str, text: str, width: int) -> list[tuple[str, str]]:
    """Beside its label, or below it from the first column on if it is too long for that."""
    if _LABEL + len(text) <= width:
        return [(label, laid_out(label, text))]
    return [*([(label, label)] if label else []), ("", text)]
