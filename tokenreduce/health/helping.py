"""The doctor's side of a helper process: starts it, gives it looks one by one, ends it in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, cast

from tokenreduce.health.finding import Asked, Finding

# As the decoding child is started: -P keeps the working directory off the import path.
_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); from tokenreduce.health.helper import main; "
    "main()"
)
_ENVIRON = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


_START_SECONDS = 60.0
"""For Python itself, which nothing that is looked at influences but a busy machine may delay."""


class Failed(Exception):
    """A look raised, crashed or took too long. The message is for people."""


class Helper:
    """One process that takes looks, restarted after one that ended it. Leave the `with` block.

    limit_seconds: for each look, after which the process is ended.
    """

    def __init__(self, asked: Asked, limit_seconds: float) -> None:
        self._asked = asked
        self._limit = self._allowed = limit_seconds
        self._process: subprocess.Popen[str] | None = None
        self._late = self._closed = False

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def look(self, order: str, times: int = 1) -> list[Finding]:
        """What `order`, a "module:function", finds within `times` the limit. Raises Failed."""
        if self._closed:
            raise Failed("not looked at: the doctor was ended")
        if self._process is None:
            self._start()
        told = self._told(order, self._limit * times)
        if told["is"] == "failed":
            raise Failed(told["message"])
        return [Finding(**one) for one in told["found"]]

    def close(self) -> None:
        """From another thread: ends the look that is being taken, and lets none follow."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, root, json.dumps(asdict(self._asked))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _ENVIRON,
            text=True,
        )
        if self._closed:  # meanwhile
            self._process.kill()
        self._told(None, max(_START_SECONDS, self._limit))

    def _told(self, order: str | None, limit_seconds: float) -> Mapping[str, Any]:
        """The next message, after `order` if there is one."""
        process = cast("subprocess.Popen[str]", self._process)
        orders, answers = cast(TextIO, process.stdin), cast(TextIO, process.stdout)
        self._allowed = limit_seconds
        timer = threading.Timer(limit_seconds, self._stop)
        timer.daemon = True
        timer.start()
        try:
            if order is not None:
                orders.write(f"{order}\n")
                orders.flush()
            line = answers.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            raise Failed(self._end())
        told: Mapping[str, Any] = json.loads(line)
        return told

    def _stop(self) -> None:
        self._late = True
        if self._process is not None:
            self._process.kill()

    def _end(self) -> str:
        """Ends the process, if there is one; how it ended."""
        process, self._process = self._process, None
        late, self._late = self._late, False
        if process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)  # so that its own status is seen, not that of the kill
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        if late:
            return f"did not end within {self._allowed:g} s"
        return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
