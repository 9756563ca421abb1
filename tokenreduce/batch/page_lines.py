"""What a page shows of a row, as text that cannot deceive the eye; knows no markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenreduce.batch.rows import ID_DIGITS, Row, id_of
from tokenreduce.batch.tables import escape
from tokenreduce.batch.totals import flops_saved, said

LONG = 600
"""Characters above which a text gets a scroll bar of its own on the screen; paper shows all."""

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True)
class Number:
    """exact: what is sorted by; shown: what is read."""

    exact: float
    shown: str


@dataclass(frozen=True)
class Line:
    """A row as the template shows it; all text is `visible`. picture: number of its thumbnail."""

    id: str | None
    file: str
    also: str
    question: str
    answer: str
    long: bool
    kind: str | None
    notes: tuple[str, ...]
    how: str
    picture: int | None
    tokens: Number | None
    raw: str
    seconds: Number | None
    saved: Number | None


def visible(text: str) -> str:
    r"""Text with control characters, newlines and tabs aside, lone surrogates and marks that
    reverse the reading direction as escapes.

    >>> print(visible("gpj.\u202eexe"))
    gpj.\u202eexe
    """
    return _HIDDEN.sub(escape, text)


def line_of(text: str) -> str:
    r"""`visible`, and on one line.

    >>> print(line_of("a\nb.mp4"))
    a\nb.mp4
    """
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def shown_line(row: Row, also: tuple[str, ...], picture: int | None, *, several: bool) -> Line:
    told = row.answer or {}
    failure = row.failure
    reply = told.get("answer", "") if failure is None else failure.reason
    answer = visible(reply)
    question = visible(row.question)
    tokens, seconds = said(told, "tokens", "merged"), said(told, "seconds", "total")
    raw, saved = said(told, "tokens", "raw"), flops_saved(told) / 1e12
    return Line(
        id=None if row.id == id_of(row.key) else line_of(row.id),
        file=line_of(row.file),
        also=", ".join(map(line_of, also)),
        question=question,
        answer=answer,
        long=max(len(answer), len(question)) > LONG,
        kind=None if failure is None else line_of(failure.kind),
        notes=tuple(_notes(row, told)),
        how=_how(row, told) if several else "",
        picture=picture,
        tokens=None if tokens is None else Number(tokens, f"{tokens:,}"),
        raw="" if raw is None else f"{raw:,}",
        seconds=None if seconds is None else Number(seconds, f"{seconds:,.2f}"),
        saved=Number(saved, figure(saved)) if told else None,
    )


def _notes(row: Row, told: dict[str, Any]) -> Iterator[str]:
    """What one should know of a row before one trusts it."""
    if row.stepped_down is not None:
        step = row.stepped_down
        yield (
            f"the device's memory did not suffice, so it was asked again with {step.frames:,} "
            f"frames and {step.budget:,} tokens"
        )
    if row.attempts > 1:
        yield f"{row.attempts:,} attempts"
    for warning in told.get("warnings") or ():
        yield line_of(warning)


def _how(row: Row, told: dict[str, Any]) -> str:
    """The settings in a few words, where one page shows several."""
    words = [told[key] for key in ("preset", "method") if key in told]
    return line_of(", ".join([*words, f"settings {row.settings[:ID_DIGITS]}"]))


def figure(value: float) -> str:
    """Three figures, thousands apart, never as a power of ten.

    >>> figure(1234.5), figure(2.258e-3), figure(0.0)
    ('1,234', '0.00226', '0')
    """
    if value == 0 or abs(value) < 1e-6:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2
    while abs(value) * 10**digits < 100:
        digits += 1
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")
