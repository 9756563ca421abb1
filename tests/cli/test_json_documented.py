"""docs/json.md names every key of the answer's object, with its type, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest
from typer.testing import Result

from tokenreduce.batch.rows import Row
from tokenreduce.health.finding import Finding
from tokenreduce.result import Answer, ImageFacts

BATCH = "## The rows of a batch"
PLAN = "## What `plan` foresees"
DOCTOR = "## What `doctor` finds"
PAGE = Path(__file__).parents[2] / "docs" / "json.md"
WORDS: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    int | None: "integer or null",
    tuple[int, ...]: "list of integers",
    tuple[float, ...]: "list of numbers",
    tuple[str, ...]: "list of strings",
    dict[str, str]: "object of strings",
    tuple[ImageFacts, ...]: "list of objects",
}


def keys(kind: type, before: str = "") -> Iterator[tuple[str, str]]:
    """Every key, dotted, with its type in words."""
    hints = get_type_hints(kind)
    assert is_dataclass(kind)
    for field in fields(kind):
        hint = hints[field.name]
        name = before + field.name
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield name, "object"
            yield from keys(hint, f"{name}.")
        else:
            yield name, "string" if get_origin(hint) is Literal else WORDS[hint]


def documented(text: str) -> list[tuple[str, str]]:
    """Names and types; a line may tell two keys of one type."""
    rows = re.findall(r"^\| (`[a-z_.`, ]+`) \| ([a-z ]+) \| .{5,} \|$", text, re.MULTILINE)
    return [(name, kind) for names, kind in rows for name in re.findall(r"[a-z_.]+", names)]


@pytest.fixture
def row() -> Row:
    told = ("id", "key", "settings", "content", "file", "question")
    texts = ("started", "finished", "host", "worker")
    return Row(**dict.fromkeys((*told, *texts), "x"), status="failed", attempts=1)  # type: ignore[arg-type]  # all texts


def test_every_key_is_documented_with_its_type() -> None:
    assert documented(PAGE.read_text().split(BATCH)[0]) == list(keys(Answer))


def test_every_key_of_a_batch_is_documented(row: Row) -> None:
    told = documented(PAGE.read_text().split(BATCH)[1].split(PLAN)[0])
    assert sorted(name for name, _ in told) == sorted(set(row.to_json()) - {"question", "answer"})
    words = {str: "string", int: "integer", list: "list of strings", type(None): "object or null"}
    assert told == [(name, words[type(row.to_json()[name])]) for name, _ in told]


def kinds(value: dict[str, Any]) -> dict[str, str]:
    names = {bool: "boolean", int: "integer", str: "string", dict: "object", type(None): "null"}
    lists = {True: "list of strings", False: "list of objects"}
    return {
        key: lists[bool(one) and isinstance(one[0], str)]
        if isinstance(one, list)
        else names[type(one)]
        for key, one in value.items()
    }


def told_of(found: dict[str, Any], listed: list[tuple[str, str]]) -> None:
    """Each key is documented, and its type is one of those named, an empty list any list."""
    assert sorted(found) == sorted(name for name, _ in listed)
    for name, kind in kinds(found).items():
        told = dict(listed)[name]
        assert kind in told.split(" or ") or (found[name] == [] and "list" in told)


def test_every_key_of_a_plan_is_documented(run: Callable[..., Result], tiny_video: Path) -> None:
    told = PAGE.read_text().split(PLAN)[1].split(DOCTOR)[0]
    above, each = map(documented, told.split("Of each preset:"))
    shown = run("plan", str(tiny_video), "--vram", "7.5", "--budget", "5000", "--json").stdout
    found = json.loads(shown)
    told_of(found, above)
    used = [one for one in found["plans"] if one["refused"] is None]
    refused = [one for one in found["plans"] if one["refused"] is not None]
    for one in used:
        told_of(one, each)
    assert {frozenset(one) for one in refused} == {frozenset({"preset", "refused"})}
    assert len(used) + len(refused) == len(found["plans"]) > len(used) > 0


def test_every_key_of_the_doctor_is_documented() -> None:
    listed = documented(PAGE.read_text().split(DOCTOR)[1])
    assert [name for name, _ in listed[:2]] == ["exit_code", "findings"]
    assert [name for name, _ in listed[2:]] == [field.name for field in fields(Finding)]


def dotted(value: dict[str, Any], before: str = "") -> set[str]:
    found = set()
    for key, inner in value.items():
        found |= {before + key}
        if isinstance(inner, dict) and key != "versions":
            found |= dotted(inner, f"{before}{key}.")
    return found


def test_the_example_has_every_key(sample: Answer) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert dotted(json.loads(block)) == dotted(sample.to_json()) == {key for key, _ in keys(Answer)}


def test_the_object_survives_json(sample: Answer) -> None:
    assert json.loads(json.dumps(sample.to_json(), allow_nan=False)) == sample.to_json()
