"""Times the parts of a run, passes events on, and collects warnings; knows nothing of the parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tokenreduce.events import (
    Advanced,
    Event,
    Finished,
    Part,
    Started,
    Text,
    Warned,
    Watcher,
    ignore,
)
from tokenreduce.result import Seconds


class Clock:
    """One run's stopwatch. Parts may overlap in the telling (decode and encode take turns), but
    each second is counted for the part that spent it."""

    def __init__(self, watch: Watcher = ignore) -> None:
        self._watch = watch
        self._spent: dict[Part, float] = {}
        self._warnings: list[str] = []
        self._open: list[Part | None] = []
        self._since = 0.0
        self._start = self._question = self._first = time.perf_counter()
        self._paused: float | None = None

    @contextmanager
    def part(self, part: Part, total: int | None = None) -> Iterator[None]:
        """The whole of a part: told when it begins and ends, timed in between."""
        self.begin(part, total)
        with self.within(part):
            yield
        self.end(part)

    @contextmanager
    def within(self, part: Part) -> Iterator[None]:
        """A stretch of a part that has begun; of another part inside it, that one's."""
        self._charge()
        self._open.append(part)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A stretch in which another run has what this one needs: it counts for no part."""
        self._charge()
        self._open.append(None)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """The time since the last change, to the innermost part."""
        now = time.perf_counter()
        if self._open and (part := self._open[-1]) is not None:
            self.spend(part, now - self._since)
        self._since = now

    def begin(self, part: Part, total: int | None = None) -> None:
        self._watch(Started(part, total))

    def advance(self, part: Part, done: int) -> None:
        self._watch(Advanced(part, done))

    def spend(self, part: Part, seconds: float) -> None:
        self._spent[part] = self._spent.get(part, 0.0) + seconds

    def end(self, part: Part) -> None:
        self._watch(Finished(part, self._spent.get(part, 0.0)))

    def text(self, piece: str) -> None:
        self._watch(Text(piece))

    def tell(self, event: Event) -> None:
        """Passes on what another has to tell; a warning among it does not last."""
        self._watch(event)

    def warn(self, message: str) -> None:
        self._warnings.append(message)
        self._watch(Warned(message))

    def question_begins(self) -> None:
        """From here the time to the first token counts: the model is loaded."""
        self._question = time.perf_counter()

    def pause(self) -> None:
        """Until `resume` nothing counts: what was prepared waits for its question."""
        self._paused = time.perf_counter()

    def resume(self, watch: Watcher) -> None:
        """Goes on where it was paused, and tells `watch`."""
        waited = 0.0 if self._paused is None else time.perf_counter() - self._paused
        self._start, self._question = self._start + waited, self._question + waited
        self._watch, self._paused = watch, None

    def first_token(self) -> None:
        self._first = time.perf_counter()

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def seconds(self) -> Seconds:
        """What has been spent up to now; probing counts as decoding."""
        spent = self._spent.get
        return Seconds(
            load=spent("load", 0.0),
            decode=spent("probe", 0.0) + spent("decode", 0.0),
            encode=spent("encode", 0.0),
            reduce=spent("reduce", 0.0),
            prefill=spent("prefill", 0.0),
            first_token=self._first - self._question,
            generate=spent("answer", 0.0),
            total=time.perf_counter() - self._start,
            digest=spent("digest", 0.0),
        )
