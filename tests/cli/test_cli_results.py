"""`results`: rows of a real ledger shown, exported, merged and asked again."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import Result

from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.lock import Lock
from tokenreduce.batch.rows import Failure, Row, id_of, key_of
from tokenreduce.cache.digest import of_file
from tokenreduce.result import Answer

Run = Callable[..., Result]
Part = Callable[[str], ModuleType]
SETTINGS = "5" * 64
WHEN = "2026-11-01T10:00:00.125Z"
HOSTILE = "a\x1b[2J\t\n\u202e\udcff[red]=1.mp4"
SHOWN = "a\\x1b[2J\\t\\n\\u202e\\xff[red]=1.mp4"


def made(number: int, told: dict[str, Any] | None, **changes: Any) -> Row:
    content, question = f"{number:064x}", "What colour?"
    key = key_of(content, question, SETTINGS)
    failure = None if told else Failure("Timeout", "took more than 60 s")
    row = Row(
        id=id_of(key),
        key=key,
        settings=SETTINGS,
        content=content,
        file=f"clip-{number}.mp4",
        question=question,
        status="answered" if told else "failed",
        attempts=1,
        started=WHEN,
        finished=WHEN,
        host="here",
        worker="w0",
        answer=told,
        failure=failure,
    )
    return replace(row, **changes)


@pytest.fixture
def rows(sample: Answer) -> list[Row]:
    told = {**sample.to_json(), "answer": "red", "question": "What colour?"}
    return [
        made(0, told),
        made(1, None),
        made(2, told, file=HOSTILE),
        made(3, None, failure=Failure("InputError", "is empty")),
        made(4, None),
    ]


@pytest.fixture
def out(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> str:
    """An output in the folder where the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write("answers.jsonl", rows)
    return "answers.jsonl"


def write(output: str, rows: list[Row]) -> None:
    with Ledger.create(ledger_of(output)) as ledger, ledger.together():
        for row in rows:
            ledger.name(row.content, row.file)
            ledger.record(row)
        if rows:
            ledger.name(rows[0].content, "copy.mp4")


def test_show_in_a_pipe_has_tabs_and_cuts_nothing(run: Run, out: str) -> None:
    result = run("results", "show", out)
    assert result.exit_code == 0
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["file", "question", "answer", "tokens", "seconds"],
        ["clip-0.mp4", "What colour?", "red", "3360", "19.52"],
        ["clip-1.mp4", "What colour?", "failed: Timeout: took more than 60 s", "", ""],
        [SHOWN, "What colour?", "red", "3360", "19.52"],
        ["clip-3.mp4", "What colour?", "failed: InputError: is empty", "", ""],
        ["clip-4.mp4", "What colour?", "failed: Timeout: took more than 60 s", "", ""],
    ]
    assert result.stderr.splitlines() == [
        "2 answered, 3 failed: 2 Timeout, 1 InputError",
        "to ask the failed ones again: tokenreduce results retry answers.jsonl --failed",
    ]


def test_show_only_some(run: Run, out: str, rows: list[Row]) -> None:
    for flag, status in (("--failed", "failed"), ("--answered", "answered")):
        shown = run("results", "show", out, flag, "--json").stdout.splitlines()
        wanted = [row.id for row in rows if row.status == status]
        assert [json.loads(line)["id"] for line in shown] == wanted
    both = run("results", "show", out, "--failed", "--answered")
    assert both.exit_code == 2
    assert both.stderr.startswith("error: --failed and --answered: give one of them")


def test_show_json_gives_the_rows_as_the_output_has_them(
    run: Run, out: str, rows: list[Row]
) -> None:
    shown = [json.loads(line) for line in run("results", "show", out, "--json").stdout.splitlines()]
    assert shown == [row.to_json(("copy.mp4",) if row is rows[0] else ()) for row in rows]


def test_nothing_failed_needs_no_hint(run: Run, tmp_path: Path, rows: list[Row]) -> None:
    write(str(tmp_path / "a.jsonl"), rows[:1])
    assert run("results", "show", str(tmp_path / "a.jsonl")).stderr == "1 answered, 0 failed\n"


@pytest.mark.parametrize("width", [72, 80, 100, 237])
def test_a_table_fits_its_terminal(part: Part, rows: list[Row], width: int) -> None:
    wide = replace(rows[0], file="日本語" * 50, question="e\u0301" * 300)
    lines = list(part("results_table").tabled([wide, *rows], width, "…"))
    assert len(lines) == 1 + 1 + len(rows)
    assert {cell_len(line) for line in lines} == {width}
    assert "…" in lines[1]
    assert lines[2].split()[-2:] == ["3360", "19.52"]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [12, 20, 71])
def test_a_narrow_terminal_gets_short_lines(part: Part, rows: list[Row], width: int) -> None:
    wide = replace(rows[0], file="日本語" * 50)
    stacked = part("results_table").stacked
    cut = list(stacked([wide, *rows], width, "..."))
    assert all(cell_len(line) <= width for line in cut)
    assert cut[0].endswith("...")
    assert sum(not line.startswith(" ") for line in cut) == 1 + len(rows)
    whole = list(stacked([wide, *rows], width, None))
    assert all(cell_len(line) <= width for line in whole)
    told = "".join(line.strip() for line in whole).replace(" ", "")
    assert "failed:Timeout:tookmorethan60s" in told
    assert "日本語" * 50 in told
    assert "3360tokens,19.52s" in told


@pytest.mark.parametrize("name", ["piped", "tabled", "stacked"])
def test_rows_are_shown_as_they_come(part: Part, rows: list[Row], name: str) -> None:
    """Of endlessly many, so none of these may wait for the last."""
    endless = (rows[i % len(rows)] for i in count())
    options = () if name == "piped" else (80, "…")
    lines = getattr(part("results_table"), name)(endless, *options)
    assert len(list(islice(lines, 1000))) == 1000


def on_terminal(command: list[str], width: int) -> str:
    """What a terminal so wide is shown on stdout."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        try:
            subprocess.run(
                command,
                stdin=follower,
                stdout=follower,
                stderr=subprocess.DEVNULL,
                env={**environment, "LC_ALL": "C.UTF-8"},
                check=True,
                timeout=120,
            )
        finally:
            os.close(follower)
        data = b""
        while True:
            try:
                piece = terminal.read(65536)
            except OSError:  # the other end is closed
                return data.decode()
            if not piece:
                return data.decode()
            data += piece


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_on_terminals_wide_and_narrow(command: list[str], out: str) -> None:
    wide = on_terminal([*command, "results", "show", out], 90).splitlines()
    assert [cell_len(line) for line in wide] == [90] * 6
    assert wide[0].split() == ["file", "question", "answer", "tokens", "seconds"]
    narrow = on_terminal([*command, "results", "show", out, "--failed"], 40).splitlines()
    assert narrow[:3] == ["clip-1.mp4", "  What colour?", "  failed: Timeout: took more than 60 s"]
    full = on_terminal([*command, "results", "show", out, "--full"], 30)
    assert SHOWN in full.replace("\r\n  ", "").replace("\r\n", "")
    assert "\x1b" not in full


def test_export_beside_the_output(run: Run, out: str, rows: list[Row]) -> None:
    result = run("results", "export", out, "--csv", "--parquet", "--html", "--no-thumbnails")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        f"5 rows written to answers.{end}" for end in ("csv", "parquet", "html")
    ]
    with open("answers.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [one["id"] for one in found] == [row.id for row in rows]
    assert found[0]["also"] == "copy.mp4"
    from pyarrow import parquet

    table = parquet.read_table("answers.parquet")
    assert table.column("id").to_pylist() == [row.id for row in rows]
    page = Path("answers.html").read_text(encoding="utf-8")
    assert page.count('<tr role="row" class="answered"') == 2
    assert page.count('<tr role="row" class="failed"') == 3
    assert 'class="picture' not in page


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["--csv", "a b.csv", "answers.jsonl"], "a b.csv"),
        (["answers.jsonl", "--csv=x"], "x"),
        (["--csv", "--bom", "answers.jsonl"], "answers.csv"),
        (["--csv=", "--", "answers.jsonl"], "answers.csv"),
    ],
)
def test_export_to_a_file(run: Run, out: str, arguments: list[str], path: str) -> None:
    result = run("results", "export", *arguments)
    assert (result.exit_code, result.stderr) == (0, f"5 rows written to {path}\n")
    data = Path(path).read_bytes()
    assert data.startswith(b"\xef\xbb\xbfid," if "--bom" in arguments else b"id,")


def test_export_to_stdout_is_utf_8_in_any_locale(command: list[str], out: str) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    with Ledger.open(ledger_of(out)) as ledger:
        ledger.record(made(7, {"answer": "naïve 日本"}))
    for flags in (["--csv", "-"], ["--html", "-", "--no-thumbnails"]):
        done = subprocess.run(
            [*command, "results", "export", out, *flags],
            capture_output=True,
            env=environment,
            check=True,
            timeout=120,
        )
        assert "naïve 日本" in done.stdout.decode("utf-8")
        assert done.stderr == b"6 rows written to stdout\n"


def test_parquet_through_a_pipe(command: list[str], out: str) -> None:
    done = subprocess.run(
        [*command, "results", "export", out, "--parquet", "-"],
        capture_output=True,
        check=True,
        timeout=120,
    )
    from pyarrow import BufferReader, parquet

    assert parquet.read_table(BufferReader(done.stdout)).num_rows == 5


def test_a_reader_that_leaves_ends_an_export_quietly(command: list[str], out: str) -> None:
    for flags in (["export", out, "--csv", "-"], ["export", out, "--parquet", "-"], ["show", out]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [*command, "results", *flags],
                stdout=writer,
                stderr=subprocess.PIPE,
                check=False,
                timeout=120,
            )
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["answers.jsonl"], "nothing to export to: give --csv, --parquet or --html"),
        (["answers.jsonl", "--csv", "-", "--html", "-"], "--csv and --html would go to the same"),
        (["answers.jsonl", "--csv", "x", "--html", "./x"], "--csv and --html would go to the same"),
        (["answers.jsonl", "--csv", "answers.jsonl", "--force"], "belongs to a batch"),
        (["answers.jsonl", "--csv", "no/x.csv"], "no/x.csv: there is no folder"),
        (["answers.jsonl", "--csv", "old.csv"], "old.csv: is there already; --force replaces it"),
        (["none.jsonl", "--csv"], "none.jsonl: has no ledger beside it"),
        (["answers.jsonl.ledger", "--csv"], "give its output, answers.jsonl"),
        (["--csv", "answers.jsonl"], "OUT"),
        (["other.jsonl", "--csv"], "is no ledger of tokenreduce"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    run: Run, out: str, arguments: list[str], says: str
) -> None:
    Path("old.csv").write_text("mine")
    Path("other.jsonl.ledger").write_text("mine " * 100)
    before = sorted(os.listdir())
    result = run("results", "export", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert Path("old.csv").read_text() == "mine"
    assert sorted(os.listdir()) == before


def test_nothing_is_written_where_one_of_several_cannot_be(run: Run, out: str) -> None:
    Path("answers.html").write_text("mine")
    result = run("results", "export", out, "--csv", "--html")
    assert (result.exit_code, Path("answers.csv").exists()) == (2, False)
    forced = run("results", "export", out, "--csv", "--html", "--no-thumbnails", "--force")
    assert forced.exit_code == 0
    assert Path("answers.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_without_pyarrow_it_says_what_to_install(
    run: Run, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    result = run("results", "export", out, "--csv", "--parquet")
    assert result.exit_code == 2
    assert result.stderr.rstrip().endswith("pip install 'tokenreduce[parquet]'")
    assert not Path("answers.csv").exists()


def test_the_page_has_a_picture_of_what_is_still_there(
    run: Run, rows: list[Row], tiny_video: Path, tmp_path: Path
) -> None:
    found = of_file(tiny_video)
    assert found is not None
    out = str(tmp_path / "a.jsonl")
    write(out, [replace(rows[0], file=str(tiny_video), content=found.value), rows[1]])
    result = run("results", "export", out, "--html")
    assert result.stderr.splitlines() == [
        "no picture of 1 of 2 files: gone, changed, or not to be decoded",
        f"2 rows written to {tmp_path}/a.html",
    ]
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("url(data:image/jpeg;base64,/9j/") == 1
    with Ledger.open(ledger_of(out), readonly=True) as ledger:
        assert ledger.thumbnail(found.value) is not None
        assert ledger.thumbnail(rows[1].content) is None
    assert not Path(f"{out}.lock").exists()


def test_a_page_of_very_many_rows_is_warned_of(
    run: Run, out: str, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, warned in ((5, False), (4, True)):
        monkeypatch.setattr(part("results_export"), "MANY_ROWS", most)
        result = run("results", "export", out, "--html", "--no-thumbnails", "--force")
        assert ("warning: a page of 5 rows is slow" in result.stderr) is warned
        assert result.exit_code == 0


def test_an_output_that_is_being_worked_on_is_shown_and_exported(run: Run, out: str) -> None:
    with Lock.take(out), Ledger.open(ledger_of(out)):
        assert len(run("results", "show", out).stdout.splitlines()) == 6
        assert run("results", "export", out, "--csv", "--html").exit_code == 0


def test_rows_of_several_settings_say_which(run: Run, out: str) -> None:
    with Ledger.open(ledger_of(out)) as ledger:
        ledger.add_settings(SETTINGS, {}, {})
        assert run("results", "export", out, "--html").exit_code == 0
        assert f"settings {SETTINGS[:16]}" not in Path("answers.html").read_text("utf-8")
        ledger.add_settings("6" * 64, {}, {})
    assert run("results", "export", out, "--html", "--force").exit_code == 0
    assert f"settings {SETTINGS[:16]}" in Path("answers.html").read_text("utf-8")


def test_retry_hands_the_output_on(
    run: Run, out: str, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, str | None]]] = []
    monkeypatch.setattr(part("batch"), "retry", lambda out, **given: asked.append((out, given)))
    assert run("results", "retry", out, "--failed").exit_code == 0
    nothing = dict.fromkeys(("retries", "timeout", "workers", "cluster"))
    assert asked.pop() == (out, nothing)
    given = ("--timeout", "60", "--cluster", "auto")
    assert run("results", "retry", out, "--failed", *given).exit_code == 0
    assert asked == [(out, nothing | {"timeout": "60", "cluster": "auto"})]
    bare = run("results", "retry", out)
    assert bare.exit_code == 2
    assert "--failed" in bare.stderr
    assert run("results", "retry", "none.jsonl", "--failed").exit_code == 2
    assert len(asked) == 1


def test_merge_puts_parts_together(run: Run, out: str, rows: list[Row]) -> None:
    told = {"answer": "blue", "question": "What colour?"}
    write("part2.jsonl", [made(1, told), made(8, told)])
    result = run("results", "merge", out, "part2.jsonl", "-o", "all.jsonl")
    assert result.exit_code == 0
    assert result.stderr == (
        "6 rows of 2 outputs in all.jsonl: 4 answered, 2 failed; 1 were there twice\n"
    )
    shown = run("results", "show", "all.jsonl", "--json").stdout.splitlines()
    assert {json.loads(line)["id"] for line in shown} == {row.id for row in [*rows, made(8, told)]}
    again = run("results", "merge", out, "part2.jsonl", "-o", "all.jsonl")
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)


def test_every_option_says_its_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    for command in ("show", "export", "retry", "merge"):
        shown = run("results", command, "--help").stdout
        options = [line for line in shown.splitlines() if line.startswith("│ ") and "--" in line]
        told = [line for line in options if "--help" not in line and "OUT" not in line]
        assert told, command
        assert [line for line in told if "Default: " not in line] == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from importlib.metadata import entry_points; "
        "(s,) = entry_points(group='console_scripts', name='tokenreduce'); s.load(); "
        "print(sorted({'torch', 'jinja2', 'pyarrow', 'sqlite3', 'av', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
