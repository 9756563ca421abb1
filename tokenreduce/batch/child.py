"""A process of ours that takes objects through one pipe and gives others through a second one.

Both sides of it: `Child` for who starts it, `private_pipes` for the process itself. Knows nothing
of what goes through.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from tokenreduce.batch.wire import receive, send

# -P keeps the working directory, which may hold anything, off the import path; the package's own
# folder comes last, where it cannot shadow a thing.
_START = (
    "import sys, importlib; sys.path.append(sys.argv.pop(1)); "
    "importlib.import_module(sys.argv.pop(1)).main()"
)
_TAIL_BYTES = 64 << 10
EXIT_SECONDS = 5.0
"""For a child that said its last to end by itself."""


class Child:
    """Runs `main` of a module in a session of its own, so that Ctrl-C on the terminal is not for
    it. Whoever makes one must end it with `close`.

    environ: for the child, where the variable is not set already
    """

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        root = str(Path(__file__).resolve().parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, root, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(environ) | os.environ,
            start_new_session=True,
        )

    def send(self, order: object) -> None:
        """One that is gone does not get it."""
        with suppress(OSError, ValueError):
            send(cast(BinaryIO, self._process.stdin), order)

    def receive(self) -> Any:
        """The next object. Raises EOFError, OSError or ValueError once it has ended."""
        return receive(cast(BinaryIO, self._process.stdout))

    def kill(self) -> None:
        """At once; it is to be closed all the same."""
        self._process.kill()

    def close(self, patience_seconds: float = 0.0) -> None:
        """Tells it that nobody listens any more, and ends it if it takes longer than that."""
        with suppress(OSError):
            cast(BinaryIO, self._process.stdin).close()
        if patience_seconds > 0:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_seconds)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._log):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def ending(self) -> str:
        """How it ended, in one line. For when `receive` has said that it did."""
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        printed = self._last_words()
        said = f": {printed}" if printed else ""
        if code == -signal.SIGKILL:
            return "was killed, perhaps for lack of memory"
        if code < 0:
            return f"crashed ({signal.Signals(-code).name}){said}"
        return f"ended unexpectedly (exit status {code}){said}"

    def _last_words(self) -> str:
        """The last thing it printed that says something: of an exception, its last line."""
        try:
            self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = self._log.read().decode(errors="replace").splitlines()
        except (OSError, ValueError):
            return ""
        said = [line.strip() for line in lines if line.strip() and not line.startswith((" ", "\t"))]
        errors = [line for line in said if "Error" in line or line.startswith("Fatal Python error")]
        return (errors or said or [""])[-1][:300]


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """In the child: the pipes to read from and to write to under other numbers, so that no library
    writes between the objects; what is printed goes to the log."""
    orders, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return orders, out
