"""An index that is damaged is thrown away, and what it said is not believed."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from torch import Tensor

from tokenreduce.cache import index as indices
from tokenreduce.cache.digest import FileState
from tokenreduce.cache.index import Index, Unusable
from tokenreduce.cache.store import Cache

Visual = Callable[..., dict[str, Tensor]]
STATE = FileState(2**64 - 1, 2**63, 3, 4, 5)  # unsigned, as some file systems number
DIGEST = "d" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


def _filled(path: Path) -> Index:
    index = Index(path)
    for name in ("a", "b", "c"):
        index.use(name)
    index.use("a")
    index.remember(STATE, DIGEST)
    return index


def _order(index: Index) -> list[str]:
    turns = index.turns()
    return sorted(turns, key=turns.__getitem__)


def test_it_knows_the_order_of_use(path: Path) -> None:
    index = _filled(path)
    assert _order(index) == ["b", "c", "a"]
    index.forget(["c", "never there"])
    assert _order(Index(path)) == ["b", "a"]
    assert index.recall(STATE) == DIGEST
    index.empty()
    assert (index.turns(), index.recall(STATE)) == ({}, None)


def test_every_part_of_the_state_counts(path: Path) -> None:
    from dataclasses import fields, replace

    index = _filled(path)
    for field in fields(STATE):
        other = replace(STATE, **{field.name: getattr(STATE, field.name) + 1})
        assert index.recall(other) is None


def test_it_does_not_grow_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indices, "MOST_DIGESTS", 3)
    index = Index(path)
    states = [FileState(1, i, 1, 1, 1) for i in range(5)]
    for state in states:
        index.remember(state, DIGEST)
    assert [index.recall(state) for state in states] == [None, None, DIGEST, DIGEST, DIGEST]


def _sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        for statement in statements:
            base.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE digests SET digest = '{'e' * 64}'",
        "UPDATE digests SET row_check = 'x'",
        "UPDATE digests SET digest = x'ff00', row_check = 7",
        "UPDATE digests SET digest = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_digest_that_was_tampered_with_is_not_believed(path: Path, statement: str) -> None:
    index = _filled(path)
    _sql(path, statement)
    assert index.recall(STATE) is None
    index.remember(STATE, DIGEST)
    assert index.recall(STATE) == DIGEST


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE uses"],
        ["DROP TABLE uses", "CREATE TABLE uses (other)"],
        ["PRAGMA user_version = 99"],
        ["UPDATE uses SET name = CAST(x'ff' AS TEXT) WHERE name = 'a'"],
        ["DROP TABLE uses", "DROP TABLE digests", "PRAGMA user_version = 0"],
    ],
)
def test_another_schema_is_replaced(path: Path, statements: list[str]) -> None:
    index = _filled(path)
    _sql(path, *statements)
    assert index.turns() == {}
    index.use("d")
    assert _order(index) == ["d"]


@pytest.mark.parametrize("turn", ["'x'", "x'ff'", "9223372036854775807", "-5", "1e300"])
def test_a_turn_that_is_none_does_no_harm(path: Path, turn: str) -> None:
    index = _filled(path)
    _sql(path, f"UPDATE uses SET turn = {turn} WHERE name = 'b'")
    index.use("d")
    assert set(index.turns()) == {"a", "b", "c", "d"}
    assert sorted(index.turns().values()) is not None  # all comparable


@pytest.mark.parametrize("content", [b"", b"rubbish" * 1000, b"SQLite format 3\0" + b"\xff" * 4080])
def test_rubbish_is_replaced(path: Path, content: bytes) -> None:
    index = _filled(path)
    path.write_bytes(content)
    assert index.turns() == {}
    assert _order(_filled(path)) == ["b", "c", "a"]


def test_random_damage_is_never_an_error_and_never_a_lie(path: Path) -> None:
    whole = _filled(path)
    for i in range(200):
        whole.remember(FileState(1, i, 1, 1, 1), f"{i:064d}")
    data = path.read_bytes()
    for seed in range(60):
        dice = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(dice.choice([1, 8, 64])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        if dice.random() < 0.3:
            del damaged[dice.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        index = Index(path)
        for i in range(0, 200, 20):
            assert index.recall(FileState(1, i, 1, 1, 1)) in (None, f"{i:064d}")
        for _ in range(2):  # whichever call meets the damage has thrown everything away
            index.use("z")
            index.remember(STATE, DIGEST)
            assert index.turns().get("z", 1) >= 1
            assert index.recall(STATE) in (None, DIGEST)


def test_what_cannot_be_replaced_is_said(tmp_path: Path, path: Path) -> None:
    path.mkdir()
    with pytest.raises(Unusable, match="unable to open"):
        Index(path).turns()
    with pytest.raises(Unusable):
        Index(tmp_path / "absent" / "index.sqlite").use("a")


def test_one_that_another_process_holds_is_not_thrown_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indices, "_BUSY_SECONDS", 0.05)
    index = _filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unusable, match="locked"):
            index.use("d")
    assert _order(index) == ["b", "c", "a"]


def test_entries_outlive_their_index(cache: Cache, inner: Path, visual: Visual) -> None:
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"rubbish" * 99)):
        cache.save({}, {"budget": 5}, visual(), {"file": "a.mp4"})
        spoil(inner / "index.sqlite")
        (entry,) = cache.lookup({})
        assert entry.facts == {"file": "a.mp4"}
        assert cache.load(entry) is not None
    assert cache.trouble is None


def test_one_that_another_process_replaced_meanwhile_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage was met, but by the time it would be thrown away the index is whole again."""
    index = _filled(path)
    connect, damaged = sqlite3.connect, [sqlite3.DatabaseError("malformed")]

    def once_damaged(*arguments: Any, **options: Any) -> sqlite3.Connection:
        if damaged:
            raise damaged.pop()
        return cast(sqlite3.Connection, connect(*arguments, **options))

    monkeypatch.setattr(sqlite3, "connect", once_damaged)
    assert _order(index) == ["b", "c", "a"]
    assert damaged == []
