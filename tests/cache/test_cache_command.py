"""`tokenreduce cache`: what it lists, what it deletes, and its mistakes in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

import pytest
from torch import Tensor
from typer.testing import CliRunner, Result

from tokenreduce.cache.store import Cache

Visual = Callable[..., dict[str, Tensor]]
Run = Callable[..., Result]


@pytest.fixture
def run(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Run:
    (script,) = entry_points(group="console_scripts", name="tokenreduce")
    for name in list(os.environ):
        if name.startswith("TOKENREDUCE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(cache.folder))
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: CliRunner().invoke(script.load(), ["cache", *arguments])


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.1f} KiB"


def _fill(cache: Cache, visual: Visual) -> list[int]:
    """Three entries, used in the order they were saved; the bytes of each."""
    for budget, file in ((1, "a.mp4"), (2, "b\x1b[31m\n.mp4"), (3, None)):
        facts = {"model": "demo"} | ({} if file is None else {"file": file})
        cache.save({}, {"budget": budget}, visual(100 * budget, 64), facts)
    for entry in cache.entries():
        stamp = time.mktime((2026, 3, entry.variant["budget"], 14, 5, 0, 0, 0, -1))
        os.utime(cache.folder / "visual-tokens" / entry.name, (stamp, stamp))
    return sorted(entry.size_bytes for entry in cache.entries())


def test_ls_lists_the_last_saved_first(run: Run, cache: Cache, visual: Visual) -> None:
    sizes = _fill(cache, visual)
    result = run("ls")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *rows, last = result.stdout.splitlines()
    assert head.split() == ["file", "saved", "model", "tokens", "size"]
    assert [row.split() for row in rows] == [
        ["-", "2026-03-03", "14:05", "demo", "300", *_kib(sizes[2]).split()],
        [r"b\x1b[31m\n.mp4", "2026-03-02", "14:05", "demo", "200", *_kib(sizes[1]).split()],
        ["a.mp4", "2026-03-01", "14:05", "demo", "100", *_kib(sizes[0]).split()],
    ]
    assert last == f"3 entries, {_kib(sum(sizes))} of at most 10.0 GiB, in {cache.folder}"


def test_ls_as_json(run: Run, cache: Cache, visual: Visual) -> None:
    _fill(cache, visual)
    shown = json.loads(run("ls", "--json").stdout)
    entries = cache.entries()
    assert shown["folder"] == str(cache.folder)
    assert shown["max_bytes"] == 10 * 2**30
    assert shown["bytes"] == sum(entry.size_bytes for entry in entries)
    assert [one["name"] for one in shown["entries"]] == [entry.name for entry in entries]
    assert shown["entries"][1] | {"saved_seconds": 0, "bytes": 0} == {
        "name": entries[1].name,
        "file": "b\x1b[31m\n.mp4",
        "saved_seconds": 0,
        "model": "demo",
        "tokens": 200,
        "bytes": 0,
        "family": {},
        "variant": {"budget": 2},
        "facts": {"model": "demo", "file": "b\x1b[31m\n.mp4"},
    }


def test_ls_of_nothing(run: Run, cache: Cache) -> None:
    result = run("ls")
    assert result.stdout == f"0 entries, 0 B of at most 10.0 GiB, in {cache.folder}\n"
    assert not cache.folder.exists()


@pytest.mark.parametrize("stamp", [2.0**40, -(2.0**35)])
def test_ls_of_an_impossible_date(run: Run, cache: Cache, visual: Visual, stamp: float) -> None:
    cache.save({}, {}, visual(), {"file": "a.mp4"})
    (entry,) = cache.entries()
    os.utime(cache.folder / "visual-tokens" / entry.name, (stamp, stamp))
    assert run("ls").exit_code == 0


def test_clear_says_what_was_freed(run: Run, cache: Cache, visual: Visual) -> None:
    freed = _kib(sum(_fill(cache, visual)))
    assert run("clear").stdout == f"3 entries deleted, {freed} freed in {cache.folder}\n"
    assert run("clear").stdout == f"0 entries deleted, 0 B freed in {cache.folder}\n"
    assert cache.entries() == ()


def test_prune_keeps_what_was_used_last(run: Run, cache: Cache, visual: Visual) -> None:
    sizes = _fill(cache, visual)
    assert run("prune").stdout == f"0 entries deleted, 0 B freed in {cache.folder}\n"
    result = run("prune", "--max-size", str(sizes[2]))
    assert (
        result.stdout == f"2 entries deleted, {_kib(sizes[0] + sizes[1])} freed in {cache.folder}\n"
    )
    assert [entry.variant["budget"] for entry in cache.entries()] == [3]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("123", 123),
        ("7b", 7),
        ("5GiB", 5 * 2**30),
        ("5g", 5 * 2**30),
        ("5GB", 5 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("2k", 2048),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_read_as_written(text: str, size_bytes: int) -> None:
    (script,) = entry_points(group="console_scripts", name="tokenreduce")
    assert import_module(f"{script.module}.cache").Size().read(text, typed=False) == size_bytes


@pytest.mark.parametrize("text", ["", "5x", "-1", "1e9", "GiB", "5GiBs", "nan", "٣", "1.GiB"])
def test_what_is_no_size_is_one_line(run: Run, text: str) -> None:
    result = run("prune", f"--max-size={text}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: --max-size is '{text}'; it must be a size such as 5GiB, 800MB or 0\n"
    )


@pytest.mark.parametrize("command", ["ls", "clear", "prune"])
def test_a_folder_that_is_none_is_one_line(run: Run, cache: Cache, command: str) -> None:
    cache.folder.touch()
    result = run(command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: the cache in {cache.folder} cannot be ")
    assert result.stderr.count("\n") == 1


def test_listing_imports_nothing_heavy(cache: Cache, visual: Visual) -> None:
    cache.save({}, {}, visual(), {})
    code = (
        "import sys; from importlib.metadata import entry_points; "
        "(script,) = entry_points(group='console_scripts', name='tokenreduce'); "
        "code = script.load()(['cache', 'ls'], standalone_mode=False); "
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"TOKENREDUCE_CACHE": str(cache.folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.splitlines()[-2].startswith("1 entry, ")
    assert out.stdout.splitlines()[-1] == "[]"
