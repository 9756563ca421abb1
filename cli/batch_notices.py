"""Failures and warnings of a batch as single lines, a flood of equal ones bundled; shows nothing.

The first of its kind is told at once. More of the same within half a minute are counted, and told
together: `same for 37 more files`.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from tokenreduce.batch.happenings import Happening, Recorded, Trouble

from .safe import escaped

Label = Literal["failed", "warning", "stopping"]

EVERY = 30.0
"""Seconds for which equal lines are held back."""

_KINDS = 64  # of lines that are remembered; the oldest goes, so that memory is bounded
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Notice:
    """One line, still to be made safe. failure: shown even if nothing else is."""

    label: Label
    text: str

    @property
    def failure(self) -> bool:
        return self.label == "failed"


@dataclass
class _Kind:
    """Lines that are equal but for names and numbers.

    text, file    of the first, which was told
    files         of those held back, since `since`; last: the text of the latest
    """

    label: Label
    text: str
    file: str | None
    since: float
    files: set[str | None] = field(default_factory=set)
    last: str = ""
    differ: bool = False

    def bundled(self) -> Notice:
        if len(self.files) == 1:
            return _notice(self.label, next(iter(self.files)), self.last)
        like = "similar" if self.differ else "same"
        return Notice(self.label, f"{like} for {len(self.files):,} more files: {self.text}")


class Notices:
    """What is to be said of each happening, and of those that were held back."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[Label, str], _Kind] = OrderedDict()

    def see(self, happening: Happening, now: float) -> list[Notice]:
        match happening:
            case Recorded(row) if row.failure is not None:
                text = f"{row.failure.kind}: {_without_name(row.failure.reason, row.file)}"
                return self._tell("failed", row.file, text, now)
            case Trouble(message, None, str(worker)) if worker not in message:
                return self._tell("warning", None, f"{worker}: {message}", now)
            case Trouble(message, None, _):
                return self._tell("warning", None, message, now)
            case Trouble(message, str(file), _):
                return self._tell("warning", file, _without_name(message, file), now)
        return []

    def due(self, now: float) -> list[Notice]:
        """Bundles that have waited long enough. What goes on stays bundled."""
        told = []
        for kind in self._kinds.values():
            if kind.files and now - kind.since >= EVERY:
                told.append(kind.bundled())
                kind.files, kind.since, kind.differ = set(), now, False
        return told

    def rest(self) -> list[Notice]:
        """All that is still held back."""
        told = [kind.bundled() for kind in self._kinds.values() if kind.files]
        self._kinds.clear()
        return told

    def _tell(self, label: Label, file: str | None, text: str, now: float) -> list[Notice]:
        key = (label, _NUMBER.sub("#", text))
        kind = self._kinds.get(key)
        if kind is not None and now - kind.since < EVERY:
            if file is None or file != kind.file:  # its other questions fail for the same reason
                kind.files.add(file)
                kind.last = text
                kind.differ |= text != kind.text
            return []
        told = self._drop(key) + self._drop_oldest()
        self._kinds[key] = _Kind(label, text, file, now)
        return [*told, _notice(label, file, text)]

    def _drop(self, key: tuple[Label, str]) -> list[Notice]:
        kind = self._kinds.pop(key, None)
        return [kind.bundled()] if kind is not None and kind.files else []

    def _drop_oldest(self) -> list[Notice]:
        return self._drop(next(iter(self._kinds))) if len(self._kinds) >= _KINDS else []


def _notice(label: Label, file: str | None, text: str) -> Notice:
    return Notice(label, text if file is None else f"{file}: {text}")


def _without_name(reason: str, file: str) -> str:
    """`reason` without the path in it: the line begins with that, and what is equal for two files
    must read equal."""
    for path in {f"{file}: ", f"{escaped(file)}: "}:
        reason = reason.removeprefix(path).replace(f": {path}", ": ")
    name = f"{escaped(os.path.basename(file))}: "
    folder, _, rest = reason.partition(name)
    return rest if folder.endswith((os.sep, "/")) and ": " not in folder else reason
