"""The command as it was installed, with settings of its own and a stub for the session."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest
import typer
from typer.testing import CliRunner, Result

from tokenreduce.result import Answer

STUB = Path(__file__).with_name("stub_run.py")


class Run(Protocol):
    """Runs the command in this process."""

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Result: ...


class Process(Protocol):
    """Runs the command, or it with a stub for the session, as a process of its own."""

    def __call__(
        self, *arguments: str, mode: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of whoever runs the tests counts."""
    for name in list(os.environ):
        if name.startswith("TOKENREDUCE_"):
            monkeypatch.delenv(name)
    empty = tmp_path / "no-settings.toml"
    empty.touch()
    monkeypatch.setenv("TOKENREDUCE_CONFIG", str(empty))
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="session")
def app() -> typer.Typer:
    (script,) = entry_points(group="console_scripts", name="tokenreduce")
    loaded = script.load()
    assert isinstance(loaded, typer.Typer)
    return loaded


@pytest.fixture(scope="session")
def part(app: typer.Typer) -> Callable[[str], ModuleType]:
    """A module of the command line, found as its entry point is: nothing imports it by name."""
    (script,) = entry_points(group="console_scripts", name="tokenreduce")
    return lambda name: import_module(f"{script.module}.{name}")


@pytest.fixture
def run(app: typer.Typer) -> Run:
    def invoke(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return invoke


@pytest.fixture(scope="session")
def stub() -> dict[str, Any]:
    return runpy.run_path(str(STUB))


@pytest.fixture
def sample(stub: dict[str, Any]) -> Answer:
    answer: Answer = stub["SAMPLE"]
    return answer


@pytest.fixture
def stubbed(
    stub: dict[str, Any], part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[dict[str, Any]]]:
    """Puts a stub in the session's place; the list fills with the calls it gets."""

    def put(mode: str) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        module = stub["sessions"](stub["MODES"][mode], calls)
        monkeypatch.setattr(part("sessions"), "open_session", module.open_session)
        return calls

    return put


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The installed command: the script beside this interpreter."""
    return [str(Path(sys.executable).with_name("tokenreduce"))]


@pytest.fixture
def process(command: list[str]) -> Process:
    def start(
        *arguments: str, mode: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        begin = command if mode is None else [sys.executable, str(STUB), mode]
        options = {"stdin": subprocess.DEVNULL, "timeout": 300} | options
        return subprocess.run(
            [*begin, *arguments], capture_output=True, text=True, check=False, **options
        )

    return start
