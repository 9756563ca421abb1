"""`tokenreduce cache`: what is kept of videos already seen, and how to be rid of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenreduce.errors import InputError

from . import render

if TYPE_CHECKING:
    from tokenreduce.cache.store import Cache, Entry, Freed

cache = typer.Typer(
    name="cache",
    no_args_is_help=True,
    help="List or delete the visual tokens kept of videos already seen.",
)

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{ending}": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for ending, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


@dataclass(frozen=True)
class Size:
    """Bytes with or without a unit: 5GiB, 5G (the same), 5GB (of 1000), 0."""

    allowed: str = "a size such as 5GiB, 800MB or 0"

    def read(self, value: object, /, *, typed: bool) -> int:
        if isinstance(value, str):
            found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([a-z]{0,3})", value.lower(), re.ASCII)
            if found is not None:
                return int(Fraction(found[1]) * _UNITS[found[2]])
        raise ValueError


@cache.command("ls")
def list_entries(
    as_json: Annotated[
        bool,
        typer.Option("--json", metavar="", help="One JSON object on stdout. Default: a table."),
    ] = False,
) -> None:
    """List what is kept, the last saved first, and the folder it lies in."""
    from .cost import size

    store = _open()
    entries = store.entries()
    _raise(store)
    total = sum(entry.size_bytes for entry in entries)
    if as_json:
        listed = [_as_json(entry) for entry in entries]
        folder = {"folder": str(store.folder), "max_bytes": store.max_bytes, "bytes": total}
        render.json_object(folder | {"entries": listed})
        return
    if entries:
        render.columns([("file", "saved", "model", "tokens", "size"), *map(_row, entries)])
    count = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
    render.line(
        f"{count}, {_plain(size(total))} of at most {_plain(size(store.max_bytes))}, "
        f"in {store.folder}"
    )


@cache.command("clear")
def clear_all() -> None:
    """Delete everything that is kept; it is computed again when it is needed."""
    store = _open()
    _report(store, store.clear())


@cache.command("prune")
def prune_to(
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="What may stay, such as 5GiB or 800MB. Default: 10GiB, to which every run prunes.",
        ),
    ] = None,
) -> None:
    """Delete what was used longest ago until the rest takes at most SIZE."""
    from .settings import read_flag

    limit = None if max_size is None else read_flag("--max-size", Size(), max_size)
    store = _open()
    _report(store, store.prune(limit))


def _open() -> Cache:
    from tokenreduce.cache.store import Cache, default_folder

    return Cache(default_folder(os.environ))


def _report(store: Cache, freed: Freed) -> None:
    from .cost import size

    _raise(store)
    count = f"{freed.entries} entr{'y' if freed.entries == 1 else 'ies'}"
    render.line(f"{count} deleted, {_plain(size(freed.size_bytes))} freed in {store.folder}")


def _raise(store: Cache) -> None:
    """What a question goes on without is here what was asked for."""
    if store.fault is not None:
        raise InputError(
            f"the cache in {store.folder} {store.fault}; TOKENREDUCE_CACHE names another folder"
        )


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ")  # the tie is for wrapped lines


def _row(entry: Entry) -> tuple[str, ...]:
    from .cost import size

    file, model = entry.text("file") or "-", entry.text("model") or "-"
    tokens, size_bytes = f"{entry.tokens:,}", _plain(size(entry.size_bytes))
    return (file, _when(entry.saved_seconds), model, tokens, size_bytes)


def _when(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):  # a clock that was set to no date there is
        return "-"


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "file": entry.text("file"),
        "saved_seconds": entry.saved_seconds,
        "model": entry.text("model"),
        "tokens": entry.tokens,
        "bytes": entry.size_bytes,
        "family": dict(entry.family),
        "variant": dict(entry.variant),
        "facts": dict(entry.facts),
    }
