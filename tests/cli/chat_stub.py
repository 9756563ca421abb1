"""`tokenreduce chat` with a stub for the library's session: as a process of its own, run as
`chat_stub.py ARGUMENTS...`, or in the tests' with `sessions`. Never imports torch.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenreduce.errors import CapacityError, InputError, SettingError
from tokenreduce.events import Finished, Started, Text, Warned, Watcher
from tokenreduce.result import Answer, Fitted

SAMPLE: Answer = runpy.run_path(str(Path(__file__).with_name("stub_run.py")))["SAMPLE"]
FRAMES = replace(SAMPLE.frames, seconds=(0.0, 29.12, 3725.06), decoded=3)


@dataclass
class Session:
    """What a question says decides what becomes of it; everything is written down."""

    wanted: Any
    model: Any = None
    placing: Any = None
    cache: Any = None
    many: bool = False
    allowed: Any = None
    finished: Any = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    viewed: object = None
    plan: object = None
    fitted: Fitted = field(default_factory=Fitted)

    def __enter__(self) -> Session:
        self.calls.append(("enter", self.wanted, self.model, self.placing, self.cache, self.many))
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append(("exit",))

    def change(self, *, preset: str | None = None) -> None:
        if preset != "fast":
            raise SettingError(f"no preset {preset!r}; there are: fast")
        self.calls.append(("change", preset))
        if self.allowed.fit:
            self.fitted = Fitted(changed=("32 frames -> 16",))

    def ask(
        self,
        question: str,
        *,
        history: Any = (),
        stop: Callable[[], bool] = lambda: False,
        watch: Watcher = lambda _: None,
    ) -> Answer:
        self.calls.append(("ask", question, history))
        about = str(getattr(self.wanted, "path", self.wanted))
        if "broken" in about:
            raise InputError(f"{about}: no such file; give one")
        self.plan = self.viewed = "there"
        if self._seldom(question, watch):
            return self._answer(question, "")
        said = ""
        watch(Started("prefill"))
        watch(Finished("prefill", 0.1))
        watch(Started("answer", 256))
        pieces = ["\x1b]0;title\x07It ", "is ", question.upper()]
        for piece in pieces if question != "endless" else ["and so on "] * 100_000:
            said += piece
            watch(Text(piece))
            time.sleep(0.01 if question == "endless" else 0)
            if stop():
                return replace(self._answer(question, said), finish_reason="interrupted")
        return self._answer(question, said)

    def _seldom(self, question: str, watch: Watcher) -> bool:
        match question:
            case "refused":
                raise InputError("this \x1b[2Jcannot be asked; ask another")
            case "too large":
                raise CapacityError("the device's memory does not suffice")
            case "bug":
                raise ZeroDivisionError("a bug")
            case "slow":
                watch(Started("decode", 64))
                time.sleep(300)
            case "nothing":
                return True
            case "warned":
                watch(Warned("look out"))
        return False

    def _answer(self, question: str, said: str) -> Answer:
        return replace(SAMPLE, question=question, answer=said, frames=FRAMES)


def sessions(calls: list[tuple[Any, ...]]) -> Callable[..., Session]:
    """Makes sessions that write to `calls`."""

    def make(wanted: Any, *, keep_sheet: bool = False, **more: Any) -> Session:
        assert not keep_sheet
        return Session(wanted, calls=calls, **more)

    return make


def _open_session(files: list[str], values: dict[str, Any], *, many: bool) -> Session:
    assert values["preset"] == "balanced"
    return Session(files[0], many=many)


def _module(name: str, **contents: Any) -> None:
    """In the place of one that imports torch."""
    module = ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


if __name__ == "__main__":
    (script,) = entry_points(group="console_scripts", name="tokenreduce")
    app = script.load()
    _module("tokenreduce.plan", check_question=lambda question: question)
    _module(f"{script.module}.sessions", open_session=_open_session)
    app()
