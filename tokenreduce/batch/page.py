"""Rows as one self-contained HTML page; knows neither ledgers nor where it is put.

Everything that comes from outside is escaped twice: what a browser would read as markup by jinja2,
what would reorder or hide text on the screen by `visible`. The page's policy lets a browser load
nothing and run no script but the one it comes with.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import IO, Any

from tokenreduce.batch.rows import ID_DIGITS, Row, id_of
from tokenreduce.batch.tables import Told, Written, escape
from tokenreduce.batch.totals import Totals, flops_saved, said

Thumbnail = Callable[[str, str, str], bytes | None]
"""From a content, a name of it and when it was asked to a JPEG, or None where there is none."""

LONG = 600
"""Characters above which a text gets a scroll bar of its own on the screen; paper shows all."""

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_SPOOL_BYTES = 16 << 20  # of a page that are kept in memory, and then in a file
_PIECE = 1 << 20  # characters


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


@dataclass(frozen=True)
class About:
    """What a page says of itself. title: the batch's output; written: when, see `rows.now`;
    several: rows were asked with several settings, so each says with which."""

    title: str
    written: str
    several: bool = False


def write_page(
    file: Written,
    rows: Iterable[Told],
    about: About,
    thumbnail: Thumbnail | None = None,
    advance: Callable[[int], None] | None = None,
) -> int:
    """Writes the page, says how many rows.

    The rows are taken once, one at a time: what comes before them on the page, their totals and
    pictures, is told by the same rows. Memory grows with the number of files, by 200 bytes each.

    thumbnail  None: a page without
    advance    told how many rows are done
    """
    totals, pictures = Totals(), _Pictures(thumbnail)
    template = _template("page_row.html.j2")
    with _spool() as rules, _spool() as lines:
        for count, (row, also) in enumerate(rows, 1):
            totals.add(row)
            number, rule = pictures.of(row)
            rules.write(rule)
            line = _line(row, also, number, several=about.several)
            lines.write(template.render(line=line, thumbnails=thumbnail is not None))
            if advance is not None:
                advance(count)
        style, script = _part("page.css"), _part("page.js")
        for piece in _template("page.html.j2").generate(
            title=line_of(about.title),
            written=about.written,
            policy=_policy(script),
            figures=_figures(totals, pictures.contents),
            failures=[(line_of(kind), count) for kind, count in totals.failures.most_common()],
            thumbnails=thumbnail is not None,
            style=_as_it_is([style]),
            script=_as_it_is([script]),
            rules=_as_it_is(_pieces(rules)),
            lines=_as_it_is(_pieces(lines)),
        ):
            file.write(piece)
    return totals.rows


class _Pictures:
    """A rule of the style sheet for each content: rows about the same file share one picture."""

    def __init__(self, thumbnail: Thumbnail | None) -> None:
        self._thumbnail = thumbnail
        self._numbers: dict[str, int | None] = {}

    @property
    def contents(self) -> int:
        return len(self._numbers)

    def of(self, row: Row) -> tuple[int | None, str]:
        """The number of a row's picture, None if it has none; and the rule, where that is new."""
        if row.content in self._numbers:
            return self._numbers[row.content], ""
        made = self._thumbnail and self._thumbnail(row.content, row.file, row.started)
        if not made:
            self._numbers[row.content] = None
            return None, ""
        number = self._numbers[row.content] = len(self._numbers)
        data = base64.b64encode(made).decode("ascii")
        return number, f".p{number}{{background-image:url(data:image/jpeg;base64,{data})}}\n"


def _spool() -> IO[str]:
    return tempfile.SpooledTemporaryFile(_SPOOL_BYTES, mode="w+", encoding="utf-8", newline="")


def _pieces(spool: IO[str]) -> Iterator[str]:
    spool.seek(0)
    return iter(lambda: spool.read(_PIECE), "")


def _as_it_is(pieces: Iterable[str]) -> Iterator[Any]:
    """Of what is escaped already, or came with this package."""
    from markupsafe import Markup

    return map(Markup, pieces)


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


def _line(row: Row, also: tuple[str, ...], picture: int | None, *, several: bool) -> Line:
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


def _figures(totals: Totals, contents: int) -> list[tuple[str, str, str]]:
    """What stands on top: name, figure, and what explains it."""
    share = f"{totals.tokens_merged / totals.tokens_raw:.1%}" if totals.tokens_raw else "0%"
    return [
        ("rows", f"{totals.rows:,}", f"of {contents:,} file{'' if contents == 1 else 's'}"),
        ("answered", f"{totals.answered:,}", ""),
        ("failed", f"{totals.failed:,}", ""),
        ("visual tokens", f"{totals.tokens_merged:,}", f"{share} of {totals.tokens_raw:,} raw"),
        ("seconds", f"{totals.seconds:,.1f}", "of all answers together"),
        ("TFLOPs saved", figure(totals.flops_saved / 1e12), "in the language model"),
    ]


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


def _policy(script: str) -> str:
    """Nothing is loaded from anywhere, no form is sent, and this script alone runs."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _part(name: str) -> str:
    return files("tokenreduce.batch").joinpath(name).read_text(encoding="utf-8")


def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_part(name))
