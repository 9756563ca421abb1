"""Whether a text can be asked; knows nothing about what it is asked of, and imports no torch."""

from __future__ import annotations

from tokenreduce.errors import InputError

MAX_QUESTION_CHARACTERS = 20_000


def check_question(question: str) -> str:
    """The question without white space around it. Raises InputError if it is empty or too long."""
    stripped = question.strip()
    if not stripped:
        raise InputError("the question is empty: give it after the file, or on standard input")
    if len(stripped) > MAX_QUESTION_CHARACTERS:
        raise InputError(
            f"the question has {len(stripped):,} characters: "
            f"at most {MAX_QUESTION_CHARACTERS:,} are allowed"
        )
    return stripped
