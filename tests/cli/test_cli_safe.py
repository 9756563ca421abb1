"""Text from outside cannot drive the terminal, wherever it is cut; ASCII where blocks fail."""

from __future__ import annotations

import doctest
import io
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

Part = Callable[[str], ModuleType]

# Much denser in trouble than arbitrary text.
NASTY = st.text(
    alphabet=st.one_of(st.sampled_from("\x1b[]0;31mAPX\\\x07\x9b\n\t ~?!"), st.characters()),
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(), max_size=40))
def test_escaped_is_one_printable_line(part: Part, text: str) -> None:
    shown = part("safe").escaped(text)
    assert not any(unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"} for one in shown)
    assert "\u202e" not in shown


def test_escaped_leaves_ordinary_text_alone(part: Part) -> None:
    text = "Ünïcode 视频 👩‍👩‍👧 [bold] C:\\x.mp4"
    assert part("safe").escaped(text) == text
    assert part("safe").escaped("a\udcff\n\x1b[2J\u202eb") == "a\\xff\\n\\x1b[2J\\u202eb"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=NASTY, cuts=st.lists(st.integers(0, 40), max_size=6))
@example(text="a\x1b[31mred\x1b[0m", cuts=[2, 3, 4])
@example(text="\x1b]0;title\x1b\\b", cuts=[9, 10])
def test_a_stream_comes_out_safe_and_the_same_wherever_it_is_cut(
    part: Part, text: str, cuts: list[int]
) -> None:
    whole = part("safe").Cleaner()
    pieces = part("safe").Cleaner()
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    out = "".join(pieces.clean(text[a:b]) for a, b in pairwise(bounds))
    assert out == whole.clean(text)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in out)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[1;31mred\x1b[0m b", "ared b"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdcs\x1b\\x", "x"),
        ("\x1bcreset", "reset"),
        ("bell\x07 back\x08 \x9b31m", "bell back 31m"),
        ("line\nand\ttab", "line\nand\ttab"),
        ("[red]not markup[/red]", "[red]not markup[/red]"),
        ("x\x1b[" + "1" * 5000, "x[" + "1" * 5000),  # held back for so long and no longer
    ],
)
def test_sequences_go_and_text_stays(part: Part, text: str, shown: str) -> None:
    assert part("safe").Cleaner().clean(text) == shown


@pytest.mark.parametrize(
    ("environ", "encoding", "platform", "draws"),
    [
        ({"LANG": "en_US.UTF-8"}, "utf-8", "linux", True),
        ({"LC_ALL": "C.UTF-8", "LANG": "C"}, "UTF-8", "linux", True),
        ({"LC_ALL": "C", "LANG": "en_US.UTF-8"}, "utf-8", "linux", False),
        ({"LANG": "C"}, "utf-8", "linux", False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", "linux", False),  # set by Python itself
        ({"LANG": "de_DE.UTF-8", "LC_CTYPE": "C.UTF-8"}, "utf-8", "linux", True),
        ({}, "utf-8", "linux", False),
        ({"LANG": "en_US.UTF-8"}, "ascii", "linux", False),
        ({"LANG": "en_US.ISO-8859-1"}, "iso-8859-1", "linux", False),
        ({}, "utf-8", "win32", True),
        ({}, "cp1252", "win32", False),
    ],
)
def test_blocks_are_drawn_where_they_will_show(
    part: Part, environ: dict[str, str], encoding: str, platform: str, draws: bool
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert part("safe").draws_unicode(stream, environ, platform) is draws


@pytest.mark.parametrize("name", ["safe", "cost"])
def test_the_examples_in_docstrings(part: Part, name: str) -> None:
    # Here, because a module with relative imports cannot be collected from its folder.
    done = doctest.testmod(part(name))
    assert done.attempted > 0
    assert done.failed == 0
