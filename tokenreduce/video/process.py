"""The parent's side of one decoding child: starts it, talks to it, ends it. Knows no videos."""

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
from typing import Any, BinaryIO, cast

from tokenreduce.video.types import Limits
from tokenreduce.video.wire import Severed, receive, send

# -P keeps the working directory, which may hold anything, off the import path; the package's own
# folder comes last, where it cannot shadow a thing.
_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); from tokenreduce.video.child import main; main()"
)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


START_SECONDS = 120.0
"""For the child's imports, which no video influences but a busy machine may delay."""


EXIT_SECONDS = 2.0
"""For a child that closed its pipe to end by itself."""


class Died(Exception):
    """The child ended before it answered. The message says how, to follow "the decoder".

    killed: by another program or the system, which does so where memory runs out.
    """

    def __init__(self, how: str, *, killed: bool = False) -> None:
        super().__init__(how)
        self.killed = killed


class Child:
    """One decoding process. Whoever makes one must end it with `kill`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stalled = self._dismissed = False
        self._patience = max(START_SECONDS, limits.stall_seconds)
        root = str(Path(__file__).resolve().parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, root, json.dumps(asdict(limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | _ONE_THREAD,
        )
        self._to = cast(BinaryIO, self._process.stdin)
        self._from = cast(BinaryIO, self._process.stdout)
        try:
            self._await_ready()
            self._patience = limits.stall_seconds
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def order(self, order: Mapping[str, Any]) -> None:
        """Raises Died if the child is gone."""
        try:
            send(self._to, order)
        except OSError:
            raise self._end() from None

    def answer(self, max_payload_bytes: int = 0) -> tuple[dict[str, Any], bytes]:
        """The next message other than a sign of life.

        Raises Died if the child ends, breaks the protocol or gives no sign of life for
        `Limits.stall_seconds`; it is killed then.
        """
        while True:
            timer = threading.Timer(self._patience, self._stall)
            timer.daemon = True
            timer.start()
            try:
                header, payload = receive(self._from, max_payload_bytes)
            except (Severed, OSError, ValueError):
                raise self._end() from None
            finally:
                timer.cancel()
            if header.get("is") != "busy":
                return header, payload

    def kill(self) -> None:
        """Ends the process at once and waits for it; harmless if it has ended."""
        self._dismissed = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _await_ready(self) -> None:
        """Raises RuntimeError with what the child printed if it cannot start: that is a bug."""
        try:
            self.answer()
        except Died as died:
            printed = self._process.stderr.read() if self._process.stderr else b""
            text = printed.decode(errors="replace").strip()
            raise RuntimeError(f"the decoding process {died}\n{text}") from None

    def _stall(self) -> None:
        self._stalled = True
        self._process.kill()

    def _end(self) -> Died:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)  # so that its own status is seen, not that of the kill
        alive = self._process.poll() is None
        self._process.kill()
        code = self._process.wait()
        if self._stalled:
            return Died(f"made no progress for {self._patience:g} s and was stopped")
        if self._dismissed:
            return Died("was ended before it was done")
        if alive:
            return Died("sent what makes no sense and was stopped")
        if code < 0 and code != -signal.SIGKILL:
            return Died(f"crashed ({signal.Signals(-code).name})")
        if code < 0:
            return Died("was killed, most likely for lack of memory", killed=True)
        return Died(f"ended unexpectedly (exit status {code})")
