"""A conversation as a file, Markdown or JSON, written whole or not at all; asks nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tokenreduce.errors import InputError
from tokenreduce.result import Answer

from .safe import Cleaner, escaped


def save(path: str, files: Sequence[str], answers: Sequence[Answer]) -> Path:
    """Writes the answers so far to `path`, over what may stand there; its suffix says how.

    Raises InputError for another suffix, or if it cannot be written; then nothing has changed.
    """
    written = _FORMATS.get(Path(path).suffix.lower())
    if written is None:
        raise InputError(
            f"{escaped(path)}: a conversation is saved as {' or '.join(_FORMATS)}: give such a name"
        )
    text = written(files, answers)
    try:
        target = Path(path).expanduser()
        _replace(target, text)
    # pathlib raises RuntimeError for the home of nobody, the system ValueError for a NUL.
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{escaped(path)}: cannot be written: {reason}; save elsewhere") from error
    return target


def markdown(files: Sequence[str], answers: Sequence[Answer]) -> str:
    """Questions as quotations, answers as they were given, without control characters."""
    parts = [f"# {', '.join(escaped(name) for name in files)}"]
    if answers:
        parts.append(escaped(f"{answers[0].model}, {answers[0].quantize}"))
    for answer in answers:
        parts.append("\n".join(f"> {line}" for line in _clean(answer.question).splitlines()))
        parts.append(_clean(answer.answer).strip() or "(no answer)")
        parts.append(f"*{_about(answer)}*")
    return "\n\n".join(parts) + "\n"


def as_json(files: Sequence[str], answers: Sequence[Answer]) -> str:
    """`files`, and `answers` as `ask --json` prints each."""
    whole = {"files": list(files), "answers": [answer.to_json() for answer in answers]}
    return json.dumps(whole, ensure_ascii=True, allow_nan=False, indent=2) + "\n"


_FORMATS: dict[str, Callable[[Sequence[str], Sequence[Answer]], str]] = {
    ".md": markdown,
    ".json": as_json,
}


def _about(answer: Answer) -> str:
    stopped = ", stopped" if answer.finish_reason == "interrupted" else ""
    seconds = answer.seconds.total
    return escaped(
        f"{answer.preset}: {answer.tokens.merged:,} visual tokens, {seconds:.1f} s{stopped}"
    )


def _clean(text: str) -> str:
    return Cleaner().clean(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _replace(target: Path, text: str) -> None:
    """Beside it first, then in its place: nobody ever sees half of it."""
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _mode(target: Path) -> int:
    """Of the file that is replaced, else what any new file would have."""
    with suppress(OSError):
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
