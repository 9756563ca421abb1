"""Checks a path before any decoder sees it, and writes it so that it fits on one line."""

from __future__ import annotations

import os
import re
import stat

from tokenreduce.errors import InputError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|concat:|data:", re.IGNORECASE)


def shown(path: str | os.PathLike[str]) -> str:
    r"""`path` for a message: line breaks, control characters and bytes that are no UTF-8 escaped.

    >>> shown("a\nb.mp4")
    'a\\nb.mp4'
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line or "''"


def checked(path: str | os.PathLike[str]) -> str:
    """The absolute path of a regular, readable, non-empty file. Raises InputError for any other."""
    name, absolute = shown(path), os.path.abspath(os.fspath(path))
    try:
        if not os.fspath(path):
            raise FileNotFoundError
        facts = os.stat(absolute)
        if not stat.S_ISREG(facts.st_mode):
            kind = "a directory" if stat.S_ISDIR(facts.st_mode) else "a pipe, socket or device"
            raise InputError(f"{name}: is {kind}; give one regular file")
        if facts.st_size == 0:
            raise InputError(f"{name}: is empty; choose or copy the file again")
        with open(absolute, "rb"):
            return absolute
    except (FileNotFoundError, NotADirectoryError):
        if _URL.match(os.fspath(path)):
            raise InputError(
                f"{name}: is an address; only local files are read: download it first"
            ) from None
        raise InputError(f"{name}: no such file; give the path of a local file") from None
    except PermissionError:
        raise InputError(f"{name}: no permission to read it; change its mode or owner") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be read ({reason}); choose another file") from None
