"""Where an export goes: which formats, to which files; writes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand

from tokenreduce.errors import SettingError

STDOUT = "-"
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


def targets_of(out: str, given: Mapping[str, str | None]) -> Iterator[Target]:
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
