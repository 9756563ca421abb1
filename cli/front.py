"""What becomes of a command that ends early: one line on stderr and an exit code.

0 answered    1 a bug, with its traceback    2 usage or bad input    5 no device or out of memory
130 interrupted by Ctrl-C    141 whoever read the output went away
Knows no command.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from tokenreduce.errors import CapacityError, TokenReduceError

from . import render
from .interrupts import INTERRUPTED

BAD_INPUT = 2
NO_CAPACITY = 5
READER_GONE = 141  # 128 + SIGPIPE, what a shell reports of any program that ends so


class OneLineErrors(TyperGroup):
    """A command group whose failures are one line each. Exceptions that are bugs pass through."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _flow(self)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        _open_streams()
        # The interpreter's last collection would go through all that torch made: a second or two.
        atexit.register(gc.freeze)
        try:
            with _one_line():
                # Not standalone: typer would print usage errors its own way, in a box.
                code = super().main(
                    args, prog_name, complete_var, False, windows_expand_args, **extra
                )
        except typer.Exit as ended:
            code = ended.exit_code
        finally:
            _settle_streams()
            # Registered last, so called first: all is said, and Ctrl-C need not wait for the rest.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        # Here too: main of typer turns an interrupt and a broken pipe into exit codes of its own.
        with _one_line():
            return super().invoke(ctx)


def _flow(command: Any) -> None:
    """Help as wide as the terminal: typer keeps a docstring's line ends, but the first."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(lines.split()) for lines in paragraphs)
    for one in getattr(command, "commands", {}).values():
        _flow(one)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except TokenReduceError as error:
        render.error(str(error))
        raise typer.Exit(NO_CAPACITY if isinstance(error, CapacityError) else BAD_INPUT) from None
    except typer.TyperException as error:
        if error.format_message():  # empty where the help was shown instead
            render.error(_usage(error))
        raise typer.Exit(BAD_INPUT) from None
    except (KeyboardInterrupt, typer.Abort):
        render.error("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise typer.Exit(READER_GONE) from None


def _usage(error: typer.TyperException) -> str:
    """A usage error in one line that says where help is."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "tokenreduce"
    return f"{message}; see '{command} --help'"


def _open_streams() -> None:
    """Gives a command that was started with closed streams, as by `>&-`, ones to write to."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _settle_streams() -> None:
    """Points a stream that cannot be written at nothing, or the interpreter's last flush fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError, ValueError):
                os.dup2(nothing, stream.fileno())
            os.close(nothing)
