"""Rows as one self-contained HTML page; knows neither ledgers nor where it is put.

Everything that comes from outside is escaped twice: what a browser would read as markup by jinja2,
what would reorder or hide text on the screen by `visible`. The page's policy lets a browser load
nothing and run no script but the one it comes with.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import IO, Any

from tokenreduce.batch.page_lines import figure, line_of, shown_line
from tokenreduce.batch.rows import Row
from tokenreduce.batch.tables import Told, Written
from tokenreduce.batch.totals import Totals

Thumbnail = Callable[[str, str, str], bytes | None]
"""From a content, a name of it and when it was asked to a JPEG, or None where there is none."""

_SPOOL_BYTES = 16 << 20  # of a page that are kept in memory, and then in a file
_PIECE = 1 << 20  # characters


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
            line = shown_line(row, also, number, several=about.several)
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


def _figures(totals: Totals, contents: int) -> list[tuple[str, str, str]]:
    """What stands on top: name, figure, and what explains it."""
    saved = totals.sums.unreduced - totals.sums.spent
    share = f"{totals.sums.merged / totals.sums.raw:.1%}" if totals.sums.raw else "0%"
    return [
        ("rows", f"{totals.rows:,}", f"of {contents:,} file{'' if contents == 1 else 's'}"),
        ("answered", f"{totals.answered:,}", ""),
        ("failed", f"{totals.failed:,}", ""),
        ("visual tokens", f"{totals.sums.merged:,}", f"{share} of {totals.sums.raw:,} raw"),
        ("seconds", f"{totals.sums.total:,.1f}", "of all answers together"),
        (
            "TFLOPs saved",
            figure(saved / 1e12),
            "in the language model",
        ),
    ]


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
