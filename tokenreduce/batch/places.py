"""The files that were named, each once, however it was named; knows nothing about questions."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import BinaryIO

from tokenreduce.batch.reading import content, title
from tokenreduce.batch.walking import (
    VIDEO_EXTENSIONS,
    Passed,
    identity,
    taker,
    walk,
)
from tokenreduce.errors import InputError
from tokenreduce.video.inputs import shown

_MOST_TOLD = 5
"""Folders that cannot be read are told one by one, up to so many."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file. path: to open it; name: which machine's it is goes by this, see `Shard.takes`."""

    path: str
    name: str
    missing: bool = False


class Places:
    """All files, in the order in which they were first named.

    patterns: of a folder's files, see `walking.taker`, which raises SettingError.
    """

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        self._patterns = patterns
        self._takes = taker(patterns)
        self._places: dict[Hashable, Place] = {}
        self._parents: dict[str, Hashable] = {}
        self._named: dict[str, Place] = {}
        self._walked: set[Hashable] = set()
        self._passed = Passed()
        self._folders: list[str] = []
        self._listed: list[str] = []
        self._skipped = 0

    @property
    def all(self) -> tuple[Place, ...]:
        return tuple(self._places.values())

    def add_given(self, path: str) -> None:
        """A file or folder of the command line. Raises InputError if there is none: a typo."""
        if not _there(path, os.lstat):
            raise InputError(
                f"{shown(path)}: no such file or folder; check the name, and give the question "
                "last and in quotes, or by --question"
            )
        if not os.path.isdir(path):
            self._add(Place(path, _name(path), not _there(path)))
            return
        self._folders.append(path)
        for found in walk(path, self._takes, self._walked, self._passed):
            self._add(Place(found.path, found.name))

    def add_listed(self, list_path: str, stdin: BinaryIO | None = None) -> None:
        """The files of a list of names that end in zero bytes. Folders in it are left out: `find`
        names them beside the files that it found in them. Raises InputError for no such list."""
        title_, data = title(list_path), content(list_path, stdin)
        names = [os.fsdecode(one) for one in data.split(b"\0") if one]
        self._listed.append(title_)
        if not names:
            raise InputError(f"{title_}: names no file; make it by such as find -print0")
        if b"\0" not in data and b"\n" in data and not os.path.lexists(names[0]):
            raise InputError(
                f"{title_}: names must end in zero bytes, as those of find -print0 do; for one a "
                "line, put it through tr '\\n' '\\0'"
            )
        for name in names:
            if os.path.isdir(name):
                self._skipped += 1
            else:
                self._add(Place(name, _name(name), not _there(name)))

    def add_named(self, name: str, base: str) -> Place:
        """The file that a row names. base: what it is relative to; "" is the current folder."""
        place = self._named.get(name)
        if place is None:
            path = os.path.join(base, name)
            place = self._add(Place(path, _relative(path, base), not _there(path)))
            self._named[name] = place
        return place

    def nothing(self) -> str:
        """Why there is no file at all, in one line."""
        where = ", ".join(shown(one) for one in (self._folders + self._listed)[:3])
        if not self._folders:
            return f"{where}: names folders alone; name files, or give the folders as paths"
        if self._passed.unreadable and not self._passed.others:
            path, reason = self._passed.unreadable[0]
            return f"{shown(path)}: cannot be read ({reason}); change its mode or owner"
        if self._patterns:
            wanted = " or ".join(f"'{shown(one)}'" for one in self._patterns[:3])
            return f"{where}: no file's name matches {wanted}; check --pattern"
        listed = ", ".join(VIDEO_EXTENSIONS)
        if not self._passed.others:
            return f"{where}: holds no file; videos are those that end in {listed}"
        return (
            f"{where}: holds no video, but {counted(self._passed.others, 'other file')}; videos "
            f"end in {listed}: choose others by --pattern '*.gif'"
        )

    def notes(self) -> list[str]:
        """What was passed over, one line each."""
        passed, notes = self._passed, list[str]()
        if passed.others and passed.other is not None:
            why = "no --pattern matches" if self._patterns else "by their names no videos"
            notes.append(
                f"{counted(passed.others, 'file')} skipped, {why}, such as {shown(passed.other)}"
            )
        if passed.dangling:
            notes.append(f"{counted(passed.dangling, 'name')} skipped: broken links or pipes")
        if self._skipped:
            notes.append(f"{counted(self._skipped, 'folder')} skipped in {self._listed[0]}")
        missing = [place.path for place in self._places.values() if place.missing]
        if missing:
            notes.append(f"{counted(len(missing), 'file')} not there, such as {shown(missing[0])}")
        for path, reason in passed.unreadable[:_MOST_TOLD]:
            notes.append(f"{shown(path)}: folder skipped, it cannot be read ({reason})")
        more = len(passed.unreadable) - _MOST_TOLD
        if more > 0:
            notes.append(f"{counted(more, 'more folder')} skipped, not readable")
        if self._patterns and not self._folders:
            notes.append("--pattern is of no effect: it chooses in folders, and none was given")
        return notes

    def _add(self, place: Place) -> Place:
        """The place, or the first one under which the same entry of the same folder was named."""
        folder, name = os.path.split(place.path)
        parent = self._parents.get(folder)
        if parent is None:
            try:
                parent = identity(folder)
            except (OSError, ValueError):
                parent = os.path.abspath(folder)
            self._parents[folder] = parent
        return self._places.setdefault((parent, name), place)


def counted(count: int, what: str) -> str:
    """
    >>> counted(1, "file"), counted(12000, "file")
    ('1 file', '12,000 files')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _there(path: str, look: Callable[[str], object] = os.stat) -> bool:
    """What may not be looked at is there all the same: reading it will say why it cannot be."""
    try:
        look(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _name(path: str) -> str:
    """As it was written, less what says nothing."""
    return os.path.normpath(path).replace(os.sep, "/")


def _relative(path: str, base: str) -> str:
    """The name below `base`; of a file that lies elsewhere, as it was written."""
    whole, root = os.path.abspath(path), os.path.abspath(base or os.curdir)
    below = whole.startswith(os.path.join(root, ""))
    return _name(os.path.relpath(whole, root) if below else path)
