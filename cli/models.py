"""`tokenreduce models`: which there are, and how one is brought onto this machine beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import render
from .interrupts import at_once

if TYPE_CHECKING:
    from tokenreduce.models.pull import Step, Tell

models = typer.Typer(name="models", invoke_without_command=True)

_TENTHS = 10


@models.callback()
def list_models(context: typer.Context) -> None:
    """List the model aliases and what is already on this machine, or pull a model onto it."""
    if context.invoked_subcommand is not None:
        return
    from tokenreduce.models.aliases import ALIASES
    from tokenreduce.models.locate import cached_bytes, resolve, saved_folder

    rows = [("alias", "size", "on this machine", "licence", "what it is")]
    for alias in ALIASES.values():
        source = resolve(alias.name)
        here, quantised = cached_bytes(source), saved_folder(source) is not None
        size = alias.download_bytes if here is None else here
        shown = _size(size) if here is not None else f"~{_size(size)}"  # from the parameters
        where = ["yes"] * (here is not None) + ["in NF4"] * quantised
        rows.append((alias.name, shown, ", ".join(where) or "no", alias.licence, alias.summary))
    render.columns(rows)


@models.command("pull")
def pull_model(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="An alias (see: tokenreduce models) or a hub id.")
    ],
    nf4: Annotated[
        bool,
        typer.Option(
            "--nf4",
            metavar="",
            help="Also save it quantised to 4 bit; --quantize nf4 then loads that. Default: off.",
        ),
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REV",
            help="Branch, tag or commit of the hub model. Default: its main branch.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="A folder for the model, quantised with --nf4; --model DIR loads it. Default: the "
            "caches, where --model ID finds it.",
        ),
    ] = None,
) -> None:
    """Download a model before it is needed; run it again to go on where it stopped.

    Room on the disk is checked first. The folder goes to stdout, progress to stderr.
    """
    from .ask import calm_libraries

    calm_libraries()
    with at_once():
        from tokenreduce.models.pull import pull

    with _shown() as tell:
        got = pull(name, revision=revision, nf4=nf4, to=None if to is None else Path(to), tell=tell)
    kind = "saved in NF4" if got.quantize else "downloaded"
    said = kind if got.new else "here already"
    render.show(f"{got.name}: {said}, {_size(got.size_bytes)}")
    render.line(str(got.folder))


@contextmanager
def _shown() -> Iterator[Tell]:
    """On a terminal one live line; elsewhere a line for each tenth of a step."""
    console = render.stderr()
    last: dict[Step, int] = {}

    def plain(step: Step, done: int, of: int) -> None:
        tenth = _TENTHS * done // max(1, of)
        if last.get(step) != tenth:
            last[step] = tenth
            render.show(_said(step, done, of))

    if not console.is_terminal or console.is_dumb_terminal:
        yield plain
        return
    with console.status("asking the hub", spinner="line") as status:
        yield lambda step, done, of: status.update(_said(step, done, of))


def _said(step: Step, done: int, of: int) -> str:
    if step == "download":
        return f"downloading {done / 1e6:,.0f} of {of / 1e6:,.0f} MB"
    return f"quantising, tensor {done:,} of {of:,}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
