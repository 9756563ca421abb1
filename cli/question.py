"""The question, from the command line or from standard input, and what it is asked about; does not
judge what it asks."""

from __future__ import annotations

import sys

from tokenreduce.errors import InputError
from tokenreduce.video.inputs import shown

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


def read_question(given: str | None) -> str:
    """What was asked. Standard input is read for "-", and for nothing if it is not a terminal.

    A question on the command line never waits for standard input, which may be a pipe that
    nobody closes. Raises InputError where there is none or it is not UTF-8.
    """
    if given is None and _is_terminal():
        raise InputError("no question: give it in quotes after the file, or pipe it in")
    text = _piped() if given is None or given == "-" else given
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
