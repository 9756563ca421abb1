"""Text from outside made safe for a terminal; knows nothing of what the text says.

File names, questions and answers may hold escape sequences that move the cursor, retitle the
window or reverse the reading direction. `escaped` shows them, `Cleaner` drops them from a stream.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TextIO

# A control sequence (CSI), a string such as a window title (OSC, DCS, SOS, PM, APC) or a short one.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z")
_LONGEST_HELD = 256
_REORDERING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _dangerous(character: str) -> bool:
    """Controls, lone surrogates, line separators and marks that reverse the reading direction."""
    return character in _REORDERING or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}


def escaped(text: str) -> str:
    r"""One safe line: every dangerous character as a backslash escape, newlines too.

    >>> print(escaped("a\x1b[31m\nb"))
    a\x1b[31m\nb
    """
    if text.isprintable():  # nothing dangerous is
        return text
    return "".join(_as_escape(one) if _dangerous(one) else one for one in text)


def _as_escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that was not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class Cleaner:
    """Drops escape sequences and controls from a stream of pieces; keeps newlines and tabs.

    A sequence may be cut between two pieces, so a beginning of one is held back until it is
    complete.
    """

    def __init__(self) -> None:
        self._held = ""

    def clean(self, piece: str) -> str:
        text = _SEQUENCE.sub("", self._held + piece)
        begun = _BEGUN.search(text)
        # A sequence that never ends must not swallow the answer.
        cut = begun.start() if begun and len(text) - begun.start() <= _LONGEST_HELD else len(text)
        self._held = text[cut:]
        return "".join(one for one in text[:cut] if one in "\n\t" or not _dangerous(one))


def draws_unicode(stream: TextIO, environ: Mapping[str, str], platform: str) -> bool:
    """Whether block characters will show: a UTF-8 stream in a locale that says UTF-8.

    The stream alone does not tell: in the C locale Python encodes UTF-8 whatever the terminal
    reads, and sets LC_CTYPE=C.UTF-8 itself (PEP 538, PEP 540).
    """
    if not (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf8"):
        return False
    if platform == "win32":
        return True
    plain = ("", "C", "POSIX")
    ctype = environ.get("LC_CTYPE", "")
    language = environ.get("LANG", "")
    if ctype.upper() in ("C.UTF-8", "C.UTF8", "UTF-8") and language in plain:
        ctype = ""  # as Python leaves it behind, not as the user set it
    locale = environ.get("LC_ALL") or ctype or language
    return "UTF8" in locale.upper().replace("-", "")
