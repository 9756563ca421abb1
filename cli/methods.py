"""`tokenreduce methods`: what there is to reduce with, and what each is."""

from __future__ import annotations

from typing import Annotated

import typer

from . import render

methods = typer.Typer(name="methods", invoke_without_command=True)


@methods.callback()
def list_methods(context: typer.Context) -> None:
    """List the methods that --method takes, or show what one is."""
    if context.invoked_subcommand is not None:
        return
    from tokenreduce.catalogue import table

    rows = [("method", "acts", "paper", "idea")]
    rows += [(one.name, ", ".join(one.sites) or "-", one.paper or "-", one.idea) for one in table()]
    render.columns(rows)


@methods.command("show")
def show_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in: tokenreduce methods.")],
) -> None:
    """Print what a method is, where it acts, and the options a preset can set."""
    from tokenreduce.catalogue import facts

    found = facts(name)
    for text in found.text.splitlines():
        render.line(text)
    render.line()
    rows = [("acts at", ", ".join(found.sites) or "-"), ("paper", found.paper or "-")]
    rows += [("option" if i == 0 else "", option) for i, option in enumerate(found.options)]
    render.columns(rows)
