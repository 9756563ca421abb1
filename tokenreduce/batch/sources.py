"""From what the user gave to what is asked of which file, before any model is loaded.

Whatever can be refused is refused here, in one line. Knows neither contents nor answers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from tokenreduce.batch.jobs import Asked, Job
from tokenreduce.batch.places import Place, Places, counted
from tokenreduce.batch.questions import Entry, Questions, askable, read_questions
from tokenreduce.batch.reading import STDIN
from tokenreduce.batch.sharding import Shard
from tokenreduce.errors import InputError, SettingError
from tokenreduce.strict import shortened
from tokenreduce.video.inputs import shown


@dataclass(frozen=True)
class Source:
    """What was given.

    paths           files and folders
    questions       asked of every file
    questions_file  csv, jsonl, json or txt; - is standard input
    names_from      a file of names that end in zero bytes; - is standard input
    patterns        of the names taken from folders; none takes videos
    shard           only this part of the files
    """

    paths: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    questions_file: str | None = None
    names_from: str | None = None
    patterns: tuple[str, ...] = ()
    shard: Shard | None = None


@dataclass(frozen=True)
class Listing:
    """What there is to ask. Jobs of files with the same questions share them.

    files, rows  of `jobs`, those of missing files too
    missing      files among them that are not there
    notes        what the user should know, one line each
    """

    jobs: tuple[Job, ...]
    files: int
    rows: int
    missing: int
    notes: tuple[str, ...]


def jobs(source: Source, stdin: BinaryIO | None = None) -> Listing:
    """What is to be asked, in order: folders sorted as people count, lists as they are written.

    With a shard there may be nothing left. stdin: instead of the process's own. Raises InputError
    for files and questions, SettingError for what contradicts itself.
    """
    if source.names_from == STDIN and source.questions_file == STDIN:
        raise SettingError(
            "standard input can be the names or the questions, not both: put one of them in a file"
        )
    places = Places(source.patterns)
    told = _told(source.questions)
    if source.questions_file is None:
        if not told:
            raise InputError(
                "no question: give one in quotes after the files, by --question, or a file of them "
                "by --questions"
            )
        notes = _found(source, places, stdin)
        asked, again = _once([Asked(question) for question in told])
        return _listing([(place, asked) for place in places.all], source, notes, again)
    questions = read_questions(source.questions_file, stdin)
    notes = _ignored(questions)
    if questions.asks and told:
        raise SettingError(
            f"{questions.name} has questions, and {shortened(told[0])} is given beside them: leave "
            "out one of the two, or, if it is a path, check the name"
        )
    if questions.files:
        return _of_named(source, places, questions, told, notes)
    notes += _found(source, places, stdin)
    _no_ids(questions, len(places.all), "files")
    asked, again = _once([Asked(one.question or "", one.id) for one in questions.entries])
    return _listing([(place, asked) for place in places.all], source, notes, again)


def _told(questions: Sequence[str]) -> tuple[str, ...]:
    many = len(questions) > 1
    where = [
        f"question {at}" if many else "the command line" for at in range(1, len(questions) + 1)
    ]
    return tuple(askable(one, at) for one, at in zip(questions, where, strict=True))


def _found(source: Source, places: Places, stdin: BinaryIO | None) -> list[str]:
    """Fills `places` from the paths and the list; the notes. Raises InputError for no file."""
    if not source.paths and source.names_from is None:
        raise InputError("no file: give files or folders, or a list of names by --from0")
    for path in source.paths:
        places.add_given(path)
    if source.names_from is not None:
        places.add_listed(source.names_from, stdin)
    if not places.all:
        raise InputError(places.nothing())
    if all(place.missing for place in places.all):
        raise InputError(
            f"none of the {len(places.all)} files is there, such as {shown(places.all[0].path)}: "
            "check the names, or run it where they lead somewhere"
        )
    return places.notes()


def _of_named(
    source: Source, places: Places, questions: Questions, told: Sequence[str], notes: list[str]
) -> Listing:
    """Each row names its file."""
    name = questions.name
    if not questions.asks and not told:
        raise InputError(
            f"{name}: has no column 'question'; add one, or give the question on the command line"
        )
    if source.names_from is not None or source.patterns:
        given = "--from0" if source.names_from is not None else "--pattern"
        raise SettingError(f"{name} names its files itself: leave out {given}")
    if not questions.asks:
        _no_ids(questions, len(told), "questions")
    base = _base(source.paths, questions)
    wanted: dict[Place, list[Asked]] = {}
    for entry in questions.entries:
        place = places.add_named(entry.file or "", base)
        wanted.setdefault(place, []).extend(_asked(entry, told))
    missing = [place for place in wanted if place.missing]
    if len(missing) == len(wanted):
        raise InputError(
            f"{name}: none of the {len(wanted)} files that it names is there, such as "
            f"{shown(missing[0].path)}: names are relative to {shown(base or os.curdir)}"
        )
    if missing:
        rows = sum(len(set(wanted[place])) for place in missing)
        notes.append(
            f"{name} names {counted(len(missing), 'file')} not there, such as "
            f"{shown(missing[0].path)}: {counted(rows, 'row')} will fail"
        )
    once = [(place, *_once(asked)) for place, asked in wanted.items()]
    pairs = [(place, asked) for place, asked, _ in once]
    return _listing(pairs, source, notes, sum(again for *_, again in once))


def _asked(entry: Entry, told: Sequence[str]) -> list[Asked]:
    if entry.question is not None:
        return [Asked(entry.question, entry.id)]
    return [Asked(question, entry.id) for question in told]


def _base(paths: Sequence[str], questions: Questions) -> str:
    """The folder that the rows' names are relative to; "" is the current one."""
    if not paths:
        return questions.folder
    if len(paths) > 1 or not os.path.isdir(paths[0]):
        raise InputError(
            f"{questions.name} names its files itself: give no path, or the one folder that its "
            f"names are relative to, not {shown(paths[-1])}"
        )
    return paths[0]


def _no_ids(questions: Questions, times: int, what: str) -> None:
    """An id is one row's: it cannot stand for one question of several files."""
    entry = questions.with_id
    if entry is not None and times > 1:
        raise InputError(
            f"{questions.name} line {entry.line}: the id would stand for {times} {what}: give "
            "each row a file and a question, or leave the ids out"
        )


def _once(asked: Sequence[Asked]) -> tuple[tuple[Asked, ...], int]:
    """Each question once, and how many were there again; with an id of its own it is another."""
    kept = tuple(dict.fromkeys(asked))
    return kept, len(asked) - len(kept)


def _listing(
    pairs: Sequence[tuple[Place, tuple[Asked, ...]]],
    source: Source,
    notes: Sequence[str],
    again: int,
) -> Listing:
    shard = source.shard
    told = list(notes)
    if again:
        told.append(f"{counted(again, 'question')} left out: asked before of the same file")
    taken = [
        Job(place.path, asked, place.missing)
        for place, asked in pairs
        if shard is None or shard.takes(place.name)
    ]
    if not taken:
        told.append(f"shard {shard} has none of the {counted(len(pairs), 'file')}")
    return Listing(
        tuple(taken),
        len(taken),
        sum(len(job.asked) for job in taken),
        sum(job.missing for job in taken),
        tuple(told),
    )


def _ignored(questions: Questions) -> list[str]:
    if not questions.ignored:
        return []
    names = ", ".join(shortened(one) for one in questions.ignored[:5])
    more = len(questions.ignored) - 5
    return [
        f"{questions.name}: these columns are not used: {names}"
        + (f" and {more} more" if more > 0 else "")
    ]
