"""The command as a process: fast help, terminals, signals, pipes, locales and odd file names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Process = Callable[..., subprocess.CompletedProcess[str]]
STUB = Path(__file__).with_name("stub_run.py")
pty = pytest.importorskip("pty", reason="pseudo-terminals are a POSIX thing")

HEAVY = {"torch", "transformers", "numpy", "av", "huggingface_hub", "PIL", "bitsandbytes"}


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["--version"], ["presets"]])
def test_nothing_heavy_is_imported_for_a_look(process: Process, arguments: list[str]) -> None:
    # Imports and not seconds: how busy the machine is says nothing about the command.
    shown = process(*arguments, env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert shown.returncode == 0
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in shown.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "typer" in imported  # the measurement works
    assert imported & HEAVY == set()


def test_help_takes_less_than_half_a_second_of_work(command: list[str]) -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([*command, "--help"], capture_output=True, check=True, timeout=300)
        after = os.times()
        return (after.children_user - before.children_user) + (
            after.children_system - before.children_system
        )

    assert min(seconds() for _ in range(3)) < 0.5


def test_it_ends_without_a_last_look_through_memory() -> None:
    """Which would take as long as importing torch did; here it would find a knot."""
    code = """
import gc, os
class Knot:
    def __del__(self, write=os.write): write(2, b"found")
gc.disable()
one = Knot(); one.itself = one; del one
from tokenreduce.cli import app
{end}
"""
    for end, said in (("pass", "found"), ("app(['version'])", "")):
        run = [sys.executable, "-c", code.format(end=end)]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        assert done.stderr == said


def test_a_bug_keeps_its_traceback_without_its_variables(process: Process) -> None:
    done = process("ask", "a.mp4", "Q", mode="faulty")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.rstrip().endswith("ZeroDivisionError: a bug")
    assert "locals" not in done.stderr


def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        running = subprocess.Popen(
            [sys.executable, str(STUB), "endless", "ask", "a.mp4", "Q"], stdout=out, stderr=err
        )
        wait_for(lambda: (tmp_path / "out").stat().st_size > 0)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=300) == 130
    assert (tmp_path / "err").read_text().splitlines() == ["probe", "error: interrupted"]


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited five minutes in vain")


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, str(STUB), "endless", "ask", "a.mp4", "Q", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(10) == b"and so on "
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(timeout=300) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("answered", ["ask", "a.mp4", "Q", "--quiet"]),
        ("answered", ["ask", "a.mp4", "Q", "--json", "--quiet"]),
        (None, ["presets"]),
        (None, ["version"]),
    ],
)
def test_an_output_that_is_full_is_one_line(
    command: list[str], mode: str | None, arguments: list[str]
) -> None:
    begin = command if mode is None else [sys.executable, str(STUB), mode]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*begin, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: the output cannot be written: No space left on device; write it elsewhere\n"
    )


def test_a_reader_of_stderr_that_leaves_stops_no_answer() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, str(STUB), "answered", "ask", "a.mp4", "Q"],
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stdout) == (0, "She shows it at 12:30.\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_what_cannot_be_said_on_stderr_does_not_stop_the_answer() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, str(STUB), "answered", "ask", "a.mp4", "Q"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "She shows it at 12:30.\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_streams_are_no_bug(closed: str) -> None:
    line = f"'{sys.executable}' '{STUB}' answered ask a.mp4 Q {closed}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_line_for_clips(process: Process, tmp_path: Path) -> None:
    import resource

    folder = tmp_path / "clips"
    done = process(
        *("demo", "make", str(folder), "--clips", "1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"error: {folder} cannot be written: File too large; give another folder\n"
    )


def test_a_name_that_is_not_utf8_goes_through(process: Process) -> None:
    name = os.fsdecode(b"/no/such/\xff.mp4")
    done = process("ask", name, "Q", "--model", "demo", "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "/no/such/\\xff.mp4" in done.stderr


def test_stdout_that_cannot_write_a_character_gets_an_escape(process: Process) -> None:
    narrow = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = process("presets", "show", "balanced", env=narrow)
    assert done.returncode == 0
    done = process("ask", "a.mp4", "Q", "--quiet", mode="hostile", env=narrow)
    assert done.returncode == 0
    assert "\\u202e" in done.stdout


def test_json_is_ascii_and_one_line(process: Process) -> None:
    done = process("ask", "a.mp4", "Q", "--json", mode="answered")
    assert json.loads(done.stdout)["answer"] == "She shows it at 12:30."
    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii()


def on_terminal(
    *arguments: str, mode: str, both: bool = False, **variables: str
) -> tuple[bytes, str]:
    """What a terminal gets on stderr, or on stdout and stderr together, and what a pipe gets."""
    leader, follower = pty.openpty()
    plain = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "TERM"}}
    running = subprocess.Popen(
        [sys.executable, str(STUB), mode, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower if both else subprocess.PIPE,
        stderr=follower,
        env=plain | {"TERM": "xterm-256color", "COLUMNS": "70", "LC_ALL": "C.UTF-8"} | variables,
        text=True,
    )
    os.close(follower)
    shown = b""
    while chunk := read_terminal(leader):
        shown += chunk
    os.close(leader)
    out = "" if running.stdout is None else running.stdout.read()
    running.communicate(timeout=300)
    assert running.returncode == 0
    return shown, out


def read_terminal(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def test_a_terminal_gets_bars_and_a_pipe_the_answer() -> None:
    shown, out = on_terminal("ask", "a.mp4", "Q", mode="answered")
    text = shown.decode()
    assert out == "She shows it at 12:30.\n"
    assert "She shows" not in text
    assert "\x1b[" in text  # colours and cursor
    assert "decode" in text
    assert "loading the model" in text
    assert "first: downloading" in text
    assert "█" in text  # the table is there too
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is shown again


def test_a_warning_does_not_cut_through_a_streamed_answer() -> None:
    shown, _ = on_terminal("ask", "a.mp4", "Q", mode="answered", both=True, NO_COLOR="1")
    text = shown.decode()
    assert "She shows it at 12:30.\r\nwarning: second: after the answer\r\n" in text


def test_no_color_means_no_color() -> None:
    shown, _ = on_terminal("ask", "a.mp4", "Q", mode="answered", NO_COLOR="1")
    assert b"\x1b[31m" not in shown
    assert b"\x1b[36m" not in shown
    colored, _ = on_terminal("ask", "a.mp4", "Q", mode="answered")
    assert b"\x1b[36m" in colored  # the test can fail


def test_a_dumb_terminal_gets_plain_lines() -> None:
    shown, _ = on_terminal("ask", "a.mp4", "Q", mode="answered", TERM="dumb")
    assert b"\x1b" not in shown
    assert shown.decode().splitlines()[:2] == ["probe", "load"]


def test_the_c_locale_gets_ascii() -> None:
    shown, _ = on_terminal("ask", "a.mp4", "Q", mode="answered", LC_ALL="C")
    assert shown.isascii()
    assert b"###############*+==-:.______" in shown


def test_an_answer_cannot_drive_the_terminal() -> None:
    shown, _ = on_terminal("ask", "a.mp4", "Q", "--quiet", mode="hostile", both=True)
    assert shown == b"[bold]red bell[/bold]\r\n"
