"""The page: nothing from outside, all that is hostile escaped, every row, and their totals."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch.page import About, write_page
from tokenreduce.batch.page_lines import LONG, figure, line_of, visible
from tokenreduce.batch.rows import Failure, Row, SteppedDown, id_of, key_of

SETTINGS = "5" * 64
WRITTEN = "2026-11-01T10:00:00.125Z"
HOSTILE = (
    "</script><script>alert(1)</script>.mp4",
    "</style></title></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' autofocus onfocus='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% for a in b %}{# c #}",
    "&lt;b&gt; &amp; <b>",
    "<!-- <![CDATA[ ]]> -->",
    "gpj.\u202eexe\u2066",
    "a\x1b[31m\x00\x07b",
    "caf\udce9",
    "\u2028\u2029\ufeff",
)
EMPTY = frozenset({"meta", "input"})
POINTERS = frozenset(
    {"src", "href", "srcset", "action", "formaction", "data", "poster", "xlink:href"}
)


def answer(text: str, *, raw: int = 168, merged: int = 42, seconds: float = 1.5) -> dict[str, Any]:
    return {
        "answer": text,
        "question": "What?",
        "tokens": {"raw": raw, "merged": merged},
        "seconds": {"total": seconds},
        "flops": {"llm": 1e12, "overhead": 5e11, "llm_unreduced": 4e12},
        "warnings": [],
        "preset": "aim",
        "method": "aim-merge + aim-prune",
    }


def row(number: int = 0, **changes: Any) -> Row:
    content, question = f"{number:064x}", changes.get("question", "What?")
    key = key_of(content, question, SETTINGS)
    made = Row(
        id=id_of(key),
        key=key,
        settings=SETTINGS,
        content=content,
        file=f"clip-{number}.mp4",
        question=question,
        status="answered",
        attempts=1,
        started=WRITTEN,
        finished=WRITTEN,
        host="here",
        worker="w0",
        answer=answer("red"),
    )
    return replace(made, **changes)


def failed(number: int = 0, kind: str = "Timeout", reason: str = "too slow") -> Row:
    return row(number, status="failed", answer=None, failure=Failure(kind, reason))


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parts: list[str] = field(default_factory=list)
    inside: list[Element] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        """Its own, without that of what is inside."""
        return "".join(self.parts)

    def all(self, tag: str, of: str | None = None) -> list[Element]:
        found = [self] if self.tag == tag and (of is None or of in self.classes) else []
        return found + [one for inner in self.inside for one in inner.all(tag, of)]

    def one(self, tag: str, of: str | None = None) -> Element:
        (found,) = self.all(tag, of)
        return found


class Tree(HTMLParser):
    """A tree that refuses what is not closed, or closed twice: markup that got out of its cell."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(element)
        if tag not in EMPTY:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def page(rows: Iterable[Row], also: tuple[str, ...] = (), **options: Any) -> str:
    file = io.StringIO(newline="")
    given = list(rows)
    about = About(options.pop("title", "answers.jsonl"), WRITTEN, options.pop("several", False))
    assert write_page(file, [(one, also) for one in given], about, **options) == len(given)
    text = file.getvalue()
    text.encode("utf-8")  # strict
    return text


def tree(text: str) -> Element:
    parser = Tree()
    parser.feed(text)
    parser.close()
    assert parser.open == [parser.root]
    return parser.root


def body_rows(root: Element) -> list[Element]:
    return root.one("tbody").all("tr")


def elements(root: Element) -> list[Element]:
    return [one for inner in root.inside for one in [inner, *elements(inner)]]


def thumbnail(content: str, name: str, started: str) -> bytes | None:
    return None if content.endswith("1") else b"jpeg of " + content[-4:].encode()


def test_nothing_comes_from_outside() -> None:
    text = page([row(number) for number in range(3)], thumbnail=thumbnail)
    for element in elements(tree(text)):
        assert not POINTERS & set(element.attributes), element
        assert element.tag not in {"link", "iframe", "object", "embed", "base", "img", "image"}
        assert not [name for name in element.attributes if name.startswith("on")]
        assert "style" not in element.attributes
    assert "://" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\(([a-z/]+:[a-z/]+;)", text)) == {"data:image/jpeg;"}
    assert text.count("url(") == 2


def test_the_policy_lets_nothing_load_and_only_this_script_run() -> None:
    root = tree(page([row()]))
    (policy,) = [
        one.attributes["content"]
        for one in root.all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    said = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    digest = hashlib.sha256(root.one("script").text.encode()).digest()
    assert said == {
        "default-src": "'none'",
        "script-src": f"'sha256-{base64.b64encode(digest).decode()}'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    tags = [one.tag for one in elements(root)]
    assert tags.index("meta") < tags.index("style")  # it holds only for what comes after


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_nothing_else(text: str) -> None:
    plain = tree(page([row(), failed(1)], ("b",), several=True))
    told = {**answer(text), "warnings": [text], "preset": text}
    rows = [
        row(id=text, file=text, question=text, answer=told, attempts=1),
        replace(failed(1, text, text), file="f"),
    ]
    root = tree(page(rows, (text,), title=text, several=True))
    one, other = body_rows(root)
    assert [one.one("td", part).one("div").text for part in ("question", "answer")] == [
        visible(text)
    ] * 2
    head = one.one("th", "file")
    assert head.one("div").text == line_of(text)
    assert head.inside[1].text == f"also {line_of(text)}"
    assert head.inside[2].text == f"id {line_of(text)}"
    assert line_of(text) in head.inside[3].text
    assert one.one("td", "answer").one("small").text == line_of(text)
    assert other.one("td", "answer").one("div").text == visible(text)
    assert other.one("td", "status").one("small").text == line_of(text)
    assert other.attributes["data-kind"] == line_of(text)
    assert root.one("h1").text == line_of(text)
    assert root.one("title").text == f"{line_of(text)} · tokenreduce"
    assert root.all("option")[-1].attributes["data-kind"] == line_of(text)
    tags = [element.tag for element in elements(root)]
    for tag in {*tags, "img", "script", "b"}:
        # The small ones more are the id and the warning.
        assert tags.count(tag) == len(plain.all(tag)) + (2 if tag == "small" else 0)
    named = {name for element in elements(root) for name in element.attributes}
    assert named == {name for element in elements(plain) for name in element.attributes}


@given(st.text(max_size=60))
def test_any_text_comes_back_visible(text: str) -> None:
    made = page([row(file=text, question=text, answer=answer(text))])
    (shown,) = body_rows(tree(made))
    assert shown.one("td", "answer").one("div").text == visible(text)
    assert shown.one("th", "file").one("div").text == line_of(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", made)


def test_one_row_for_each_and_the_totals_of_all() -> None:
    rows = [row(number % 4, answer=answer("red", merged=10 + number)) for number in range(9)]
    rows += [failed(7, "InputError"), failed(8), failed(9)]
    root = tree(page(rows))
    shown = body_rows(root)
    assert [one.one("th", "file").one("div").text for one in shown] == [one.file for one in rows]
    assert [("failed" in one.classes) for one in shown] == [one.answer is None for one in rows]
    figures = {
        one.one("dt").text: (one.one("dd").text, *(note.text for note in one.all("small")))
        for one in root.one("dl").all("div")
    }
    merged = sum(range(10, 19))
    assert figures == {
        "rows": ("12", "of 7 files"),
        "answered": ("9",),
        "failed": ("3",),
        "visual tokens": (f"{merged}", f"{merged / (9 * 168):.1%} of 1,512 raw"),
        "seconds": ("13.5", "of all answers together"),
        "TFLOPs saved": ("22.5", "in the language model"),
    }
    assert [one.text for one in root.one("p", "failures").all("span")] == [
        "2 Timeout",
        "1 InputError",
    ]


def test_figures_are_sorted_by_what_they_are_exactly() -> None:
    one, other = body_rows(tree(page([row(answer=answer("a", merged=13440)), failed(1)])))
    tokens = one.one("td", "tokens")
    assert (tokens.attributes["data-exact"], tokens.text) == ("13440", "13,440")
    assert tokens.one("small").text == "of 168"
    assert one.one("td", "seconds").attributes["data-exact"] == "1.5"
    assert one.one("td", "saved").attributes["data-exact"] == "2.5"
    for part in ("tokens", "seconds", "saved"):
        assert other.one("td", part).text == "–"
        assert "data-exact" not in other.one("td", part).attributes


def test_it_is_a_table_to_whoever_cannot_see_it() -> None:
    """With roles of its own: the style sheet takes from rows the display of a table's."""
    root = tree(page([row(), failed(1)], thumbnail=thumbnail))
    assert root.one("html").attributes["lang"] == "en"
    assert root.one("table").attributes["role"] == "table"
    heads = root.one("thead").all("th")
    assert {one.attributes["role"] for one in heads} == {"columnheader"}
    assert all("".join(e.text for e in [one, *elements(one)]).strip() for one in heads)
    for shown in body_rows(root):
        cells = shown.inside
        assert [one.classes for one in cells] == [one.classes for one in heads]
        assert shown.attributes["role"] == "row"
        roles = [one.attributes["role"] for one in cells]
        assert roles == ["cell", "rowheader", *["cell"] * 6]
    assert "hidden" in root.one("form").attributes  # until the script works it
    assert [one.inside[0].tag for one in root.all("label")] == ["input", "select"]
    assert root.one("output").attributes["aria-live"] == "polite"


def test_rows_about_one_content_share_a_picture() -> None:
    asked: list[str] = []

    def made(content: str, name: str, started: str) -> bytes | None:
        asked.append(content)
        return thumbnail(content, name, started)

    rows = [row(2), row(2, file="copy.mp4"), row(1), row(1), row(3)]
    text = page(rows, thumbnail=made)
    assert asked == [rows[0].content, rows[2].content, rows[4].content]
    rules = dict(re.findall(r"^\.(p\d+)\{.*?base64,(.*?)\)\}$", text, re.MULTILINE))
    pictures = [one.one("td", "picture").one("div") for one in body_rows(tree(text))]
    found = [base64.b64decode(rules.get(one.classes[0], "")) for one in pictures]
    assert found == [b"jpeg of 0002"] * 2 + [b""] * 2 + [b"jpeg of 0003"]
    assert ["role" in one.attributes for one in pictures] == [True, True, False, False, True]
    assert "picture" not in {name for e in elements(tree(page(rows))) for name in e.classes}


def test_what_one_should_know_of_a_row_stands_with_it() -> None:
    told = {**answer("red"), "warnings": ["short", "odd"]}
    one = row(id="q-7", answer=told, attempts=3, stepped_down=SteppedDown(1032, 1680))
    (shown,) = body_rows(tree(page([one], ("b.mp4", "c.mp4"), several=True)))
    assert [note.text for note in shown.one("td", "answer").all("small")] == [
        "the device's memory did not suffice, so it was asked again with 1,032 frames and "
        "1,680 tokens",
        "3 attempts",
        "short",
        "odd",
    ]
    assert [note.text for note in shown.one("th", "file").all("small")] == [
        "also b.mp4, c.mp4",
        "id q-7",
        f"aim, aim-merge + aim-prune, settings {SETTINGS[:16]}",
    ]


def test_a_long_answer_gets_a_scroll_bar_that_keys_reach() -> None:
    rows = [row(answer=answer("x" * length)) for length in (LONG, LONG + 1)]
    short, long = body_rows(tree(page(rows)))
    assert "long" not in short.classes
    assert "tabindex" not in short.one("td", "answer").one("div").attributes
    assert "long" in long.classes
    assert long.one("td", "answer").one("div").attributes["tabindex"] == "0"


def test_an_answer_of_another_version_and_no_row_at_all() -> None:
    (shown,) = body_rows(
        tree(page([row(answer={"answer": "red", "tokens": None, "warnings": None})]))
    )
    assert shown.one("td", "answer").one("div").text == "red"
    assert body_rows(tree(page([]))) == []


def test_rows_are_taken_once_and_told_of_as_they_come() -> None:
    told: list[int] = []
    rows = iter([(row(number), ()) for number in range(3)])
    assert write_page(io.StringIO(), rows, About("a", WRITTEN), advance=told.append) == 3
    assert told == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.00226, "0.00226"),
        (1.5, "1.5"),
        (99.99, "99.99"),
        (-3.0, "-3"),
        (1e7, "10,000,000"),
    ],
)
def test_figures_are_short(value: float, shown: str) -> None:
    assert figure(value) == shown
