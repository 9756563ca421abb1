"""Help, version, presets, models and demo: what they list, and that help says unit and default."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import tokenreduce
from tokenreduce.shipped import preset_names, preset_summary

Run = Callable[..., Result]


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (0, f"tokenreduce {tokenreduce.__version__}\n")


@pytest.mark.parametrize("command", ["compare", "chat", "batch", "plan", "models pull"])
def test_help_fills_the_terminal(run: Run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a docstring is broken: a line ends where the next word has no room."""
    monkeypatch.setenv("COLUMNS", "70")
    told = run(*command.split(), "--help").stdout.partition("Usage")[2].partition("╭")[0]
    lines = [line.strip() for line in told.splitlines()]
    assert sum(map(bool, lines)) > 3
    for line, after in itertools.pairwise(lines):
        if line and after:
            assert len(line) + 1 + len(after.split()[0]) > 66, (line, after)


def test_help_without_arguments(run: Run) -> None:
    result = run()
    assert result.exit_code == 2  # a usage error, as everywhere
    assert "Usage: tokenreduce" in result.output
    assert "error:" not in result.stderr


def test_every_option_says_its_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # one line an option
    for command in (["ask"], ["demo", "make"], ["demo", "score"]):
        shown = run(*command, "--help").stdout
        options = [line for line in shown.splitlines() if re.match(r"│ --(?!help)", line)]
        assert len(options) >= {"ask": 19, "demo": 2}[command[0]]
        assert [line for line in options if "Default: " not in line] == []


def test_every_setting_has_a_flag_and_the_other_way_round(
    run: Run, part: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flags = set(re.findall(r"^│ (--[a-z-]+)", run("ask", "--help").stdout, re.MULTILINE))
    settings = {setting.flag for setting in part("settings").SETTINGS}
    asking = {"--question", "--questions", "--show-frames"}
    assert flags == settings | asking | {"--json", "--quiet", "--show-settings", "--help"}


def test_the_settings_default_to_what_the_library_defaults_to(part: Callable[[str], Any]) -> None:
    import inspect

    from tokenreduce.pipeline import answer

    parameters = inspect.signature(answer).parameters
    assert parameters["cache"].default is None  # it is given one, the command opens its own
    for setting in part("settings").SETTINGS:
        if setting.name != "use_cache":
            assert parameters[setting.name].default == setting.default


def test_presets_are_listed_with_their_summaries(run: Run) -> None:
    lines = run("presets").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(preset_names())
    for line, name in zip(lines, preset_names(), strict=True):
        assert line.endswith(preset_summary(name))


@pytest.mark.parametrize("name", preset_names())
def test_show_prints_the_toml(run: Run, name: str, tmp_path: Path) -> None:
    shown = run("presets", "show", name).stdout
    own = tmp_path / "own.toml"
    own.write_text(shown)
    assert run("presets", "show", str(own)).stdout == shown


@pytest.mark.parametrize(
    ("text", "says"),
    [("keep = 2", "key 'summary' is missing"), (None, "own.toml does not exist")],
)
def test_show_checks_a_file_of_ones_own(
    run: Run, tmp_path: Path, text: str | None, says: str
) -> None:
    own = tmp_path / "own.toml"
    if text is not None:
        own.write_text(text)
    result = run("presets", "show", str(own))
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["presets", "show", "fats"], "no preset 'fats'; there are: accurate, aim, balanced, fast"),
        (["presets", "bogus"], "No such command 'bogus'; see 'tokenreduce presets --help'"),
        (["bogus"], "No such command 'bogus'; see 'tokenreduce --help'"),
        (["--bogus"], "No such option: --bogus; see 'tokenreduce --help'"),
        (["demo", "make"], "Missing argument 'DIR'"),
        (["demo", "make", "d", "--clips", "0"], "--clips is '0'; it must be a whole number of"),
        (["demo", "make", "d", "--seed", "x"], "--seed is 'x'; it must be a whole number"),
        (["demo", "score", "d", "--budget", "0"], "--budget is '0'; it must be a whole number"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {says}")
    assert result.stderr.count("\n") == 1


def test_models_lists_every_alias(run: Run) -> None:
    from tokenreduce.models.aliases import ALIASES

    head, *rows = run("models").stdout.splitlines()
    assert head.split() == ["alias", "size", "on", "this", "machine", "licence", "what", "it", "is"]
    assert [row.split()[0] for row in rows] == list(ALIASES)
    for row, alias in zip(rows, ALIASES.values(), strict=True):
        assert alias.licence in row
        assert row.endswith(alias.summary)


def test_demo_make_writes_clips(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    result = run("demo", "make", str(folder), "--clips", "1", "--seed", "3")
    assert (result.exit_code, result.stdout) == (0, f"1 clip in {folder}\n")
    assert sorted(path.name for path in folder.iterdir()) == ["clip-000.mp4", "questions.jsonl"]


def test_demo_make_names_a_folder_it_cannot_write(run: Run, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()
    result = run("demo", "make", str(taken), "--clips", "1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {taken} cannot be written: File exists; give another folder\n"


def test_demo_score_needs_clips(run: Run, tmp_path: Path) -> None:
    result = run("demo", "score", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path} ")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """A stub for the scoring, which needs a trained model; the list fills with its arguments."""
    from tokenreduce.demo import score as real

    calls: list[tuple[object, ...]] = []

    def score(folder: str, preset: str, budget: int | None, on_progress: Any) -> real.Score:
        calls.append((folder, preset, budget))
        on_progress(1, 1)
        rows = tuple(
            real.Row(f"{i}.mp4", "count", "How many?", "two", "two", i < 3, True) for i in range(4)
        )
        return real.Score("demo", "1", preset, "aim-merge", 8, 84.0, rows)

    monkeypatch.setattr(real, "score", score)
    return calls


def test_demo_score_as_a_table(run: Run, scored: list[tuple[object, ...]]) -> None:
    result = run("demo", "score", "d", "--preset", "fast", "--budget", "30")
    assert scored == [("d", "fast", 30)]
    head, columns, *rows = result.stdout.splitlines()
    assert head == "demo, world 1, fast: aim-merge, 8 frames, 84 visual tokens"
    assert columns.split() == ["questions", "right", "+-", "asked"]
    assert rows[0].split() == ["all", "0.750", "0.217", "4"]
    assert [row.split()[0] for row in rows] == ["all", "answerable", "needles", "count"]


def test_demo_score_as_json(run: Run, scored: list[tuple[object, ...]]) -> None:
    found = json.loads(run("demo", "score", "d", "--json").stdout)
    assert scored == [("d", "balanced", None)]
    assert found["all"] == {
        "correct": 0.75,
        "standard_error": pytest.approx(0.2165, abs=1e-3),
        "questions": 4,
    }
    assert len(found["rows"]) == 4
