"""The live part of a batch as lines of text for a given width and height; draws nothing itself.

One bar over all rows, what is known of the whole, and one line a worker.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

from tokenreduce.batch.happenings import (
    FileDone,
    Happening,
    Planned,
    Stage,
    WorkerGone,
    WorkerReady,
)

from .batch_lines import counts, pace, saved
from .batch_tally import Tally
from .safe import escaped

_TIE = "\u00a0"  # holds words together while facts are wrapped
_LONGEST_BAR = 40
_LONGEST = 120  # on a wider terminal, what a worker does would stand far from its name
_GAP = "  "


@dataclass
class _InHand:
    """A file that a worker is at, since a moment on the clock. step: part and how far it is."""

    since: float
    step: str


@dataclass
class _Worker:
    """state: shown as long as no file is in hand; files: in hand, the oldest first."""

    state: str = "loading the model"
    device: str = ""
    files: dict[str, _InHand] = field(default_factory=dict)

    def done(self, file: str, now: float) -> None:
        """The time of the next one begins: until now it waited for another's answers."""
        first = next(iter(self.files), None) == file
        self.files.pop(file, None)
        if first and self.files:
            next(iter(self.files.values())).since = now


class Workers:
    """What each worker is at. A worker may prepare a file while it answers about the one before."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}

    def see(self, happening: Happening, now: float) -> None:
        match happening:
            case Planned(_, _, workers):
                for name in workers:
                    self._workers.setdefault(name, _Worker())
            case WorkerReady(name, device, _):
                self._workers[name] = _Worker("waiting", device)
            case WorkerGone(name):
                self._workers[name] = _Worker("gone")
            case Stage(name, file, part, done, total):
                step = f"{part} {done}/{total}" if total else f"{part} {done}" if done else part
                self._worker(name).files.setdefault(file, _InHand(now, step)).step = step
            case FileDone(name, file):
                self._worker(name).done(file, now)

    def lines(self, now: float, width: int, most: int, *, dots: str) -> list[str]:
        """At most `most` lines of at most `width` columns."""
        shown = list(self._workers.items())
        if len(shown) > most:
            shown = shown[: max(0, most - 1)]
        width = min(width, _LONGEST)
        rows = [_Line.of(name, worker, now) for name, worker in shown]
        lines = _laid_out(rows, width, dots)
        if more := len(self._workers) - len(shown):
            lines.append(_shortened(f"and {more:,} more workers", width, dots))
        return lines[:most]

    def _worker(self, name: str) -> _Worker:
        return self._workers.setdefault(name, _Worker("waiting"))


@dataclass(frozen=True)
class _Line:
    """The cells of a worker's line, made safe. Without a file, `step` says why."""

    name: str
    device: str
    file: str
    step: str
    seconds: str
    ahead: str

    @classmethod
    def of(cls, name: str, worker: _Worker, now: float) -> _Line:
        # A single worker bears the name of its device.
        device = "" if worker.device == name else escaped(worker.device)
        name = escaped(name)
        if not worker.files:
            return cls(name, device, "", worker.state, "", "")
        (file, hand), *others = worker.files.items()
        ahead = f"next: {others[0][1].step}" if others else ""
        seconds = f"{max(0.0, now - hand.since):,.0f} s"
        return cls(name, device, escaped(file), hand.step, seconds, ahead)


def frame(
    tally: Tally, workers: Workers, now: float, width: int, height: int, *, unicode: bool
) -> tuple[list[str], list[str]]:
    """Lines of the whole and of the workers: none wider than `width` columns, and together fewer
    than `height`."""
    facts = [*counts(tally), *pace(tally, now), *saved(tally)]
    facts.insert(0, f"{tally.answered:,} answered")
    text = ", ".join(fact.replace(" ", _TIE) for fact in facts)
    lines = [_bar(tally, width, unicode=unicode)]
    lines += [line.replace(_TIE, " ") for line in textwrap.wrap(text, width)]
    lines = lines[: max(1, height - 1)]
    dots = "…" if unicode else "..."
    return lines, workers.lines(now, width, max(0, height - 1 - len(lines)), dots=dots)


def _bar(tally: Tally, width: int, *, unicode: bool) -> str:
    done, total = tally.done, tally.total
    if not tally.rows:
        return f"batch {done:,} done"[:width]
    share = done / total
    numbers = f"{done:,}/{total:,} {int(share * 100):3d}%"
    length = min(_LONGEST_BAR, width - len(f"batch  {numbers}"))
    if length < 5:
        return f"batch {numbers}"[:width]
    full, rest = ("━", "─") if unicode else ("#", "-")
    filled = int(share * length)
    return f"batch {full * filled}{rest * (length - filled)} {numbers}"


def _laid_out(rows: list[_Line], width: int, dots: str) -> list[str]:
    """In columns. The device goes first where there is no room, then the file is shortened."""
    if not rows:
        return []
    name = min(_widest([row.name for row in rows]), max(4, width // 5))
    device = min(_widest([row.device for row in rows]), 12) if width >= 60 else 0
    busy = [row for row in rows if row.file]
    step = min(_widest([row.step for row in busy]), max(6, width // 3))
    seconds = _widest([row.seconds for row in rows])
    ahead = _widest([row.ahead for row in rows]) if width >= 90 else 0
    columns = [column for column in (name, device, step, seconds, ahead) if column]
    file = width - sum(columns) - len(_GAP) * len(columns)
    lines = []
    for row in rows:
        cells = [(row.name, name), (row.device, device)]
        if row.file:
            cells += [(row.file, file), (row.step, step)]
            cells += [(row.seconds.rjust(seconds), seconds), (row.ahead, ahead)]
        else:
            cells += [(row.step, width - name - device - 2 * len(_GAP))]
        text = _GAP.join(_padded(cell, room, dots) for cell, room in cells if room > 0)
        lines.append(_shortened(text.rstrip(), width, dots))
    return lines


def _widest(texts: list[str]) -> int:
    return max(map(_columns, texts), default=0)


def _columns(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, room: int, dots: str) -> str:
    short = _shortened(text, room, dots)
    return short + " " * (room - _columns(short))


def _shortened(text: str, room: int, dots: str) -> str:
    """At most `room` columns: the middle is left out, and more of the end is kept."""
    if _columns(text) <= room:
        return text
    keep = room - _columns(dots)
    if keep < 2:
        return _first(text, room)
    end = keep - keep // 3
    return _first(text, keep // 3) + dots + _first(text[::-1], end)[::-1]


def _first(text: str, room: int) -> str:
    """As many of the first characters as `room` columns hold."""
    taken = 0
    for i, character in enumerate(text):
        taken += _columns(character)
        if taken > room:
            return text[:i]
    return text
