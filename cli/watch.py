"""Follows one run: decides which event shows what, and when; draws nothing itself."""

from __future__ import annotations

from types import TracebackType

from tokenreduce.events import Advanced, Event, Finished, Setting, Started, Text, Warned
from tokenreduce.result import Answer

from . import render
from .progress import progress


class Watch:
    """The watcher of one `ask`. Enter it before the run and leave it whatever happens.

    quiet    nothing on stderr
    stream   the answer goes to stdout as it is generated
    """

    def __init__(self, *, quiet: bool, stream: bool) -> None:
        self._progress = progress(quiet=quiet)
        self._answer = render.AnswerStream() if stream else None
        self._pieces = 0
        self._held: list[str] = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.close()
        if self._answer is not None:
            self._answer.close()
        for message in self._held:
            self._progress.warn(message)

    def __call__(self, event: Event) -> None:
        match event:
            case Started(part, total):
                self._progress.begin(part, total)
            case Advanced(part, done):
                self._progress.advance(part, done)
            case Finished(part):
                self._progress.end(part)
            case Text(piece):
                self._text(piece)
            case Setting(label, number, of):
                self._progress.setting(label, number, of)
            case Warned(message):
                self._warn(message)

    def finish(self, answer: Answer) -> None:
        """The answer in full, had nothing been streamed."""
        if self._answer is not None and not self._answer.begun:
            self._text(answer.answer)

    def _warn(self, message: str) -> None:
        if self._answer is not None and self._answer.begun:
            self._held.append(message)  # now it would cut through the answer
        else:
            self._progress.warn(message)

    def _text(self, piece: str) -> None:
        self._pieces += 1
        if self._answer is None:
            self._progress.advance("answer", self._pieces)
        else:
            self._progress.close()
            self._answer.write(piece)
