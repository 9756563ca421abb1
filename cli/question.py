"""The question, from the command line or from standard input, and what it is asked about; does not
judge what it asks."""

from __future__ import annotations

import sys

from tokenreduce.errors import InputError
from tokenreduce.video.inputs import checked, shown

_MOST_BYTES = 1 << 20  # far above what the library accepts, so that its message tells the limit


def parted(given: list[str] | None) -> tuple[list[str], str | None]:
    """Files, and the question if there is one: a single argument is a file, the last of several
    the question. Raises InputError if the last of several is one more picture."""
    if not given or len(given) == 1:
        return list(given or ()), None
    from tokenreduce.images import is_image

    *files, question = given
    if is_image(question):
        raise InputError(
            f"{shown(question)}: is a picture, where the question should be: give it after the "
            "files in quotes, or - for standard input"
        )
    return files, question


def to_ask(
    given: list[str] | None, questions: list[str], questions_file: str | None
) -> tuple[list[str], list[str]]:
    """Files and questions, each at least one. Raises InputError where either is missing, or
    questions are given in two ways."""
    if not questions and questions_file is None:
        files, question = parted(given)
        if not files:
            raise InputError(
                "no video or picture: give a local file, and a question after it in quotes"
            )
        return files, [read_question(question)]
    if questions and questions_file is not None:
        raise InputError("--question and --questions: give one of them")
    if not given:
        raise InputError("no video or picture: give a local file")
    asked = questions or _listed(questions_file or "")
    for number, question in enumerate(asked, 1):
        if not question.strip():
            raise InputError(f"question {number} of {len(asked)} is empty")
    return given, [_unicode(question) for question in asked]


def _listed(path: str) -> list[str]:
    """One question a line; empty lines are none. Raises InputError."""
    if path == "-":
        text = _piped()
    else:
        try:
            with open(checked(path), "rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"{shown(path)}: cannot be read ({error.strerror})") from error
        if len(data) > _MOST_BYTES:
            raise InputError(f"{shown(path)}: has more than 1 MiB of questions: give fewer")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{shown(path)}: is not valid UTF-8 text") from error
    asked = [line.strip() for line in text.splitlines() if line.strip()]
    if not asked:
        raise InputError(f"{shown(path)}: has no question: give one a line")
    return asked


def read_question(given: str | None) -> str:
    """What was asked. Standard input is read for "-", and for nothing if it is not a terminal.

    A question on the command line never waits for standard input, which may be a pipe that
    nobody closes. Raises InputError where there is none or it is not UTF-8.
    """
    if given is None and _is_terminal():
        raise InputError("no question: give it in quotes after the file, or pipe it in")
    return _unicode(_piped() if given is None or given == "-" else given)


def _unicode(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("the question is not valid UTF-8 text") from error
    return text


def _is_terminal() -> bool:
    return sys.stdin is None or sys.stdin.isatty()


def _piped() -> str:
    if sys.stdin is None:
        raise InputError("no question: standard input is closed; give it after the file")
    content = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise InputError("the question on standard input is longer than 1 MiB; pipe in a question")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError("the question on standard input is not valid UTF-8 text") from error
