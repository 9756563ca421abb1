"""The command with a stub for the session: what tests of the command line alone run as a process.

`stub_run.py MODE ARGUMENTS...`; MODE says what the stub does. The tests in this process take SAMPLE
and `sessions` from here as well, so that both see the same answer. Never imports torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from tokenreduce.errors import CapacityError, InputError
from tokenreduce.events import Advanced, Finished, Started, Text, Warned, Watcher
from tokenreduce.result import (
    Answer,
    Flops,
    FramesUsed,
    MemoryBytes,
    Seconds,
    TokenCounts,
    VideoFacts,
)

RAMP = (*[3360] * 15, 2940, 2520, 2100, 1680, 1260, 840, 420, *[0] * 6)

SAMPLE = Answer(
    answer="She shows it at 12:30.",
    finish_reason="stop",
    question="When?",
    video=VideoFacts("/videos/lecture.mp4", 1834.5, 1280, 720, 29.97, "h264"),
    frames=FramesUsed(64, 64, tuple(i * 29.12 for i in range(64))),
    tokens=TokenCounts(3360, 13440, 3360, 842, RAMP),
    flops=Flops(41.3e12, 2.31e13, 2.49e14, 10.56, 4.42, 4.8e11),
    seconds=Seconds(12.1, 3.21, 1.18, 0.07, 0.81, 5.3, 2.13, 19.52),
    memory_bytes=MemoryBytes(6_552_000_000, 2_461_000_000, 157_000_000, 819_000_000),
    model="lmms-lab/LLaVA-Video-7B-Qwen2",
    quantize="nf4",
    preset="aim",
    method="aim-merge + aim-prune",
    seed=0,
    generated_tokens=66,
    warnings=("60 frames decoded of 64 asked for",),
    versions={"tokenreduce": "0.1.0"},
)


def answered(watch: Watcher, **_: Any) -> Answer:
    """Every kind of event once, the answer in three pieces."""
    watch(Started("probe"))
    watch(Finished("probe", 0.01))
    watch(Started("load"))
    watch(Warned("first: downloading"))
    watch(Finished("load", 12.1))
    watch(Started("decode", 64))
    watch(Advanced("decode", 32))
    watch(Finished("decode", 3.21))
    watch(Started("answer", 256))
    for piece in ("She shows ", "it ", "at 12:30."):
        watch(Text(piece))
    watch(Warned("second: after the answer"))
    watch(Finished("answer", 2.13))
    return SAMPLE


def hostile(watch: Watcher, **_: Any) -> Answer:
    """An answer full of control characters and markup, a sequence cut between two pieces."""
    for piece in ("[bold]red\x1b[3", "1m\x1b]0;title\x07 \x07bell\u202e", "[/bold]"):
        watch(Text(piece))
    return SAMPLE


def refused(**_: Any) -> Answer:
    raise InputError("/videos/a\x1b[2J\n[red].mp4 is not a video; give one")


def too_large(**_: Any) -> Answer:
    raise CapacityError("the GPU has 4 GB, the model needs 6 GB; use --device cpu")


def faulty(**_: Any) -> Answer:
    raise ZeroDivisionError("a bug")


def endless(watch: Watcher, **_: Any) -> Answer:
    """Answers until someone stops it."""
    watch(Started("probe"))
    while True:
        watch(Text("and so on " * 1000))
        time.sleep(0.01)


MODES: dict[str, Callable[..., Answer]] = {
    mode.__name__: mode for mode in (answered, hostile, refused, too_large, faulty, endless)
}


class StubSession:
    """Notes how it is asked and answers with a stub."""

    sheet = None

    def __init__(
        self, stub: Callable[..., Answer], calls: list[dict[str, Any]], about: dict[str, Any]
    ) -> None:
        self._stub, self._calls, self._about = stub, calls, about

    def __enter__(self) -> StubSession:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def ask(self, question: str, *, watch: Watcher) -> Answer:
        self._calls.append({**self._about, "question": question})
        return self._stub(watch=watch)


def sessions(stub: Callable[..., Answer], calls: list[dict[str, Any]]) -> ModuleType:
    """A stand-in for `cli.sessions`, which notes how it was called."""

    def open_session(files: list[str], values: dict[str, Any], **more: bool) -> StubSession:
        path = files[0] if len(files) == 1 else files
        return StubSession(stub, calls, {"path": path, **values, **more})

    module = ModuleType("cli.sessions")
    module.__dict__["open_session"] = open_session
    return module


if __name__ == "__main__":
    mode = sys.argv.pop(1)
    (script,) = entry_points(group="console_scripts", name="tokenreduce")
    sys.modules[f"{script.module}.sessions"] = sessions(MODES[mode], [])
    script.load()()
