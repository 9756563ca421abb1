"""The commands and what each needs from the library; nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenreduce import __version__

from . import render
from .ask import ask
from .batch import batch
from .cache import cache
from .chat import chat
from .compare import compare
from .demo import demo
from .doctor import doctor
from .front import OneLineErrors
from .methods import methods
from .models import models
from .plan import plan
from .results import results

app = typer.Typer(
    name="tokenreduce",
    cls=OneLineErrors,
    no_args_is_help=True,
    # A bug shows Python's own traceback: short, complete, and without the tensors in it.
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    epilog="Exit codes: 0 answered, 1 a bug, 2 usage or bad input, 5 no device or out of memory, "
    "130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        render.line(f"tokenreduce {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Answer questions about long local videos within an exact budget of visual tokens."""


app.command()(ask)
app.command()(batch)
app.command()(chat)
app.command()(compare)
app.command()(plan)
app.command()(doctor)
app.add_typer(results)
app.add_typer(cache)
app.add_typer(demo)


@app.command("version")
def print_version() -> None:
    """Print the version."""
    _version(True)


app.add_typer(methods)
presets = typer.Typer(name="presets", invoke_without_command=True)
app.add_typer(presets)


@presets.callback()
def list_presets(context: typer.Context) -> None:
    """List the presets, or show what one says."""
    if context.invoked_subcommand is not None:
        return
    from tokenreduce.shipped import preset_names, preset_summary

    render.columns([(name, preset_summary(name)) for name in preset_names()])


@presets.command("show")
def show_preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name or a .toml file.")],
) -> None:
    """Print a preset's TOML, once it has been checked."""
    from tokenreduce.shipped import find_preset

    found = find_preset(name)
    if found.name != name:  # a file of one's own; the shipped ones are checked by the tests
        from tokenreduce.preset import load_preset

        load_preset(name)
    for text in found.text.splitlines():
        render.line(text)


app.add_typer(models)
