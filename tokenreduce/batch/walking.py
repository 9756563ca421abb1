"""Finds the files of a folder, in an order people expect; knows nothing about questions.

Nothing here fails because of one entry: what cannot be read or leads nowhere is counted and told.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from tokenreduce.errors import SettingError
from tokenreduce.video.inputs import shown

# fmt: off
VIDEO_EXTENSIONS = (
    "3g2", "3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts",
    "ogv", "ts", "vob", "webm", "wmv",
)
# fmt: on
"""Taken from a folder unless patterns are given; upper case counts as lower case."""

_DIGITS = re.compile(r"([0-9]+)")
_ENDINGS = frozenset(f".{one}" for one in VIDEO_EXTENSIONS)

Takes = Callable[[str], bool]
"""Whether a file of this name, without its folder, is wanted."""


@dataclass(frozen=True)
class Found:
    """A file. path: as the folder was given, joined with `name`; name: relative to that folder, its
    parts joined by / on every system."""

    path: str
    name: str


@dataclass
class Passed:
    """What was passed over, over all folders walked.

    others      files whose names nothing takes; other: the first of them
    dangling    links that lead to no file and no folder
    unreadable  folders, each with the reason in one line
    """

    others: int = 0
    other: str | None = None
    dangling: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def taker(patterns: tuple[str, ...]) -> Takes:
    """Names that match one of the patterns; of videos where there is none.

    `*`, `?` and `[...]` as in a shell, upper and lower case alike. Raises SettingError for a
    pattern that no name can match.
    """
    if not patterns:
        return lambda name: os.path.splitext(name)[1].lower() in _ENDINGS
    for pattern in patterns:
        if not pattern or "/" in pattern:
            raise SettingError(
                f"the pattern is '{shown(pattern) if pattern else ''}'; it is held against a "
                "file's name without its folder, such as '*.mp4': give the folder as a path"
            )
    wanted = re.compile("|".join(fnmatch.translate(one) for one in patterns), re.IGNORECASE)
    return lambda name: wanted.match(name) is not None


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts names as people count: clip2 before clip10, upper and lower case side by side."""
    parts = _DIGITS.split(name.casefold())
    # Text and numbers alternate from the first on, so that like is compared with like.
    return tuple(int(one) if at % 2 else one for at, one in enumerate(parts)), name


def identity(path: str) -> Hashable:
    """What two names of one folder share, however it is reached. Raises OSError."""
    status = os.stat(path or os.curdir)
    # Some network file systems give no inodes.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


@dataclass(frozen=True)
class _Entry:
    path: str
    name: str
    folder: bool


def walk(folder: str, takes: Takes, seen: set[Hashable], passed: Passed) -> Iterator[Found]:
    """The folder's files that are taken, of all depths, naturally sorted folder by folder.

    Hidden files and folders are left out. A link to a file counts as that file. Folders that
    links lead to come last, so that what lies there under its own name is found under that.
    seen: `identity` of all folders walked so far, each of which is walked once; added to, as is
    passed.
    """
    pending, linked = [_Entry(folder, "", True)], deque[_Entry]()
    while pending or linked:
        entry = pending.pop() if pending else linked.popleft()
        if not entry.folder:
            yield Found(entry.path, entry.name)
            continue
        try:
            mark = identity(entry.path)
            if mark in seen:
                continue
            seen.add(mark)
            inside = _inside(entry, takes, linked, passed)
        except OSError as error:
            passed.unreadable.append((entry.path, error.strerror or str(error)))
            continue
        pending.extend(reversed(inside))


def _inside(entry: _Entry, takes: Takes, linked: deque[_Entry], passed: Passed) -> list[_Entry]:
    """What is to be walked or taken of one folder, sorted; links to folders go to `linked`."""
    inside: list[_Entry] = []
    links: list[_Entry] = []
    with os.scandir(entry.path) as listing:
        for one in sorted(listing, key=lambda one: natural(one.name)):
            if one.name.startswith("."):
                continue
            below = _Entry(one.path, f"{entry.name}/{one.name}".lstrip("/"), _is_folder(one))
            if below.folder:
                (links if one.is_symlink() else inside).append(below)
            elif not takes(one.name):
                passed.others += 1
                passed.other = passed.other or one.path
            elif _is_file(one):
                inside.append(below)
            else:
                passed.dangling += 1
    linked.extend(links)
    return inside


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
