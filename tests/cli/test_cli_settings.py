"""Flag over variable over file over preset, each with its source; every mistake is named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tokenreduce.models import saved

Run = Callable[..., Result]
Stubbed = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "config.toml"
        path.write_text(text)
        monkeypatch.setenv("TOKENREDUCE_CONFIG", str(path))
        return str(path)

    return write


def holds(run: Run, *arguments: str) -> dict[str, tuple[str, str]]:
    """What --show-settings says: (value, source) by name."""
    result = run("ask", "--show-settings", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return {name: (row["value"], row["source"]) for name, row in json.loads(result.stdout).items()}


def test_each_level_beats_the_one_below(
    run: Run, file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file("seed = 1\nmax_new_tokens = 10\nmodel = 'demo'\n")
    monkeypatch.setenv("TOKENREDUCE_SEED", "2")
    monkeypatch.setenv("TOKENREDUCE_MAX_NEW_TOKENS", "20")
    found = holds(run, "--seed", "3")
    assert found["seed"] == ("3", "--seed")
    assert found["max_new_tokens"] == ("20", "TOKENREDUCE_MAX_NEW_TOKENS")
    assert found["model"] == ("demo", f"model in {path}")
    assert found["temperature"] == ("0.0", "default")


def test_the_preset_decides_what_nobody_else_does(run: Run) -> None:
    found = holds(run, "--preset", "fast", "--decoder", "pyav")
    assert found["preset"] == ("fast", "--preset")
    assert found["decoder"] == ("pyav", "--decoder")
    assert found["seek"] == ("keyframe", "preset fast")
    assert found["keep"] == ("1/8", "preset fast")
    assert found["frames"] == ("1 x the model's native count", "preset fast")
    assert found["time_text"] == ("as the model was trained", "model")


def test_the_table_says_the_same_as_the_object(run: Run) -> None:
    rows = run("ask", "--show-settings").stdout.splitlines()
    for row, (name, (value, source)) in zip(rows, holds(run).items(), strict=True):
        assert row.split("  ")[0] == name
        assert value in row
        assert row.endswith(source)


def test_variables_reach_the_library(
    run: Run, stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stubbed("answered")
    monkeypatch.setenv("TOKENREDUCE_BUDGET", "300")
    monkeypatch.setenv("TOKENREDUCE_TIME_TEXT", "0")
    monkeypatch.setenv("TOKENREDUCE_DEVICE", "")  # empty is unset
    run("ask", "a.mp4", "Q")
    assert (calls[0]["budget"], calls[0]["time_text"]) == (300, False)
    assert calls[0]["device"] == "auto"


def test_a_budget_sets_aside_a_share_from_below(
    run: Run, file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file('keep = "1/8"')
    assert holds(run)["keep"] == ("1/8", f"keep in {file('keep = 0.125')}")
    monkeypatch.setenv("TOKENREDUCE_BUDGET", "300")
    found = holds(run)
    assert found["budget"] == ("300", "TOKENREDUCE_BUDGET")
    assert found["keep"] == ("not used", "TOKENREDUCE_BUDGET instead")
    found = holds(run, "--keep", "1/2")
    assert found["keep"] == ("1/2", "--keep")
    assert found["budget"] == ("not used", "--keep instead")


def test_both_at_one_level_are_a_mistake(
    run: Run, file: Callable[[str], str], stubbed: Stubbed
) -> None:
    path = file("keep = 0.5\nbudget = 10")
    calls = stubbed("answered")
    result = run("ask", "a.mp4", "Q", "--budget", "3")
    assert (result.exit_code, calls) == (2, [])
    assert result.stderr.startswith(f"error: budget in {path} and keep in {path} both say")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budgte = 3", ": no setting 'budgte'; there are: budget, decoder, "),
        ("budgte = 3", "(did you mean budget?)"),
        ('budget = "3000"', ": budget is '3000'; it must be a whole number of visual tokens"),
        ("budget = true", ": budget is True; it must be a whole number"),
        ("budget = 0", ": budget is 0; it must be a whole number of visual tokens, at least 1"),
        ('temperature = "1"', ": temperature is '1'; it must be a number from 0 to 10"),
        ("temperature = " + "9" * 400, "it must be a number from 0 to 10"),
        ("time_text = 1", ": time_text is 1; it must be true or false"),
        ('seek = "fast"', ": seek is 'fast'; it must be one of: exact, keyframe"),
        ("model = 7", ": model is 7; it must be an alias, a hub id or a folder"),
        ("[ask]\nbudget = 3", ": no setting 'ask'"),
        ("budget == 3", " is not valid TOML: "),
    ],
)
def test_mistakes_in_the_file_name_file_and_key(
    run: Run, stubbed: Stubbed, file: Callable[[str], str], text: str, says: str
) -> None:
    calls = stubbed("answered")
    path = file(text)
    result = run("ask", "a.mp4", "Q")
    assert (result.exit_code, result.stdout, calls) == (2, "", [])
    assert result.stderr.startswith(f"error: {path}")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_is_named_must_be_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENREDUCE_CONFIG", "/no/such/file.toml")
    result = run("ask", "a.mp4", "Q")
    assert result.exit_code == 2
    assert (
        result.stderr == "error: /no/such/file.toml does not exist; give the path of a TOML file\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep settings elsewhere")
def test_the_users_own_file_is_found_and_need_not_be_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TOKENREDUCE_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert holds(run)["seed"] == ("0", "default")
    own = tmp_path / "tokenreduce" / "config.toml"
    own.parent.mkdir()
    own.write_text("seed = 5")
    assert holds(run)["seed"] == ("5", f"seed in {own}")


def test_named_folders_need_no_package_that_knows_the_users(
    file: Callable[[str], str],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """On a machine where nothing can be installed."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    monkeypatch.setenv("TOKENREDUCE_MODELS", str(tmp_path))
    file("seed = 3")
    assert holds(run)["seed"][0] == "3"
    assert run("cache", "ls").exit_code == 0
    assert saved.default_folder(os.environ) == tmp_path


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TOKENREDUCE_BUDGET", "many", "TOKENREDUCE_BUDGET is 'many'; it must be a whole number"),
        ("TOKENREDUCE_TIME_TEXT", "maybe", "TOKENREDUCE_TIME_TEXT is 'maybe'; it must be true or"),
    ],
)
def test_mistakes_in_variables_name_the_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = run("ask", "a.mp4", "Q")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {says}")


def test_a_variable_that_is_no_setting_is_warned_about(
    run: Run, stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubbed("answered")
    monkeypatch.setenv("TOKENREDUCE_BUDGTE", "3")
    result = run("ask", "a.mp4", "Q")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: TOKENREDUCE_BUDGTE is no setting")
