"""`chat` with a stubbed session: piped lines, commands, what is kept and saved; then terminals."""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Run = Callable[..., Result]
STUB = Path(__file__).with_name("chat_stub.py")
Calls = list[tuple[Any, ...]]
FILES = ("a.mp4", "a.jpg", "b.png", "broken.mp4")
SAID = "\x1b]0;title\x07It is "
pty = pytest.importorskip("pty", reason="pseudo-terminals are a POSIX thing")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """What a stub in the session's place is called with."""
    made: Calls = []
    stub = runpy.run_path(str(STUB))
    monkeypatch.setattr("tokenreduce.session.Session", stub["sessions"](made))
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture(autouse=True)
def _films(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files for the command to find, which the stub never reads."""
    (tmp_path / "films").mkdir()
    monkeypatch.chdir(tmp_path / "films")
    for name in FILES:
        Path(name).write_bytes(b"film")


def test_a_file_that_is_not_there_is_told_before_anything_is_typed(run: Run, calls: Calls) -> None:
    done = run("chat", "missing.mp4", stdin="one\n")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == ("error: missing.mp4: no such file; give the path of a local file\n")
    assert calls == []


def asked(calls: Calls) -> list[tuple[str, Any]]:
    return [(call[1], call[2]) for call in calls if call[0] == "ask"]


def test_answers_alone_are_on_stdout(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", stdin="\ufeffone\n\n  two  \nthree")
    assert done.exit_code == 0
    assert done.stdout == "".join(f"{SAID}{name}\n" for name in ("ONE", "TWO", "THREE"))
    assert done.stderr.splitlines() == ["prefill", "answer 256"] * 3
    assert calls[0][0] == "enter"
    assert calls[-1] == ("exit",)
    assert calls[0][-1] is True  # further questions are expected


def test_what_was_said_goes_along(run: Run, calls: Calls) -> None:
    assert run("chat", "a.mp4", "--quiet", stdin="one\ntwo\nthree\n").exit_code == 0
    first, second = ("one", f"{SAID}ONE"), ("two", f"{SAID}TWO")
    assert asked(calls) == [("one", ()), ("two", (first,)), ("three", (first, second))]


def test_an_answer_of_nothing_is_no_part_of_what_was_said(run: Run, calls: Calls) -> None:
    assert run("chat", "a.mp4", stdin="nothing\none\n").exit_code == 0
    assert asked(calls) == [("nothing", ()), ("one", ())]


def test_an_error_of_one_question_is_not_the_end(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", "--quiet", stdin="one\nrefused\ntwo\n")
    assert done.exit_code == 2
    assert done.stdout == f"{SAID}ONE\n{SAID}TWO\n"
    assert done.stderr == "error: this \\x1b[2Jcannot be asked; ask another\n"
    assert [question for question, _ in asked(calls)] == ["one", "refused", "two"]
    assert asked(calls)[-1][1] == (("one", f"{SAID}ONE"),)  # what failed was never said


def test_the_gravest_error_says_how_it_ends(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", "--quiet", stdin="too large\nrefused\none\n")
    assert (done.exit_code, done.stdout) == (5, f"{SAID}ONE\n")
    assert done.stderr.count("error: ") == 2


def test_what_stands_in_every_questions_way_ends_it_at_once(run: Run, calls: Calls) -> None:
    done = run("chat", "broken.mp4", "--quiet", stdin="one\ntwo\n")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: broken.mp4: no such file; give one\n"
    assert len(asked(calls)) == 1
    assert calls[-1] == ("exit",)


def test_a_bug_is_not_hidden_and_the_session_is_closed(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", stdin="bug\n")
    assert done.exit_code == 1
    assert isinstance(done.exception, ZeroDivisionError)
    assert calls[-1] == ("exit",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"\xff\xfe?", "line 2 is not valid UTF-8 text"),
        (b"x" * ((1 << 20) + 3_000_000), "line 2 is longer than 1 MiB: give one question a line"),
        (b"x" * 20_001, "the question has 20,001 characters: at most 20,000 are allowed"),
        (b"/nope", "no command /nope; there are: /cost, /frames, /help, /preset, /quit, /save"),
        (b"/frames all", "/frames takes nothing, not 'all': type /frames alone"),
        (b"/preset", "/preset needs a name or a .toml file; there are: accurate"),
        (b"/preset fats", "no preset 'fats'; there are: fast"),
        (b"/save", "/save needs a file name that ends in .md or .json"),
        (b"/save a.txt", "a.txt: a conversation is saved as .md or .json: give such a name"),
        (b"/save /no/such/folder/a.md", "/no/such/folder/a.md: cannot be written: No such file"),
        (b"/save ~no-such-user/a.md", "~no-such-user/a.md: cannot be written: "),
        (b"/save a\x00b.md", "a\\x00b.md: cannot be written: "),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, calls: Calls, line: bytes, says: str) -> None:
    done = run("chat", "a.mp4", "--quiet", stdin=b"one\n" + line + b"\ntwo\n")
    assert (done.exit_code, done.stdout) == (2, f"{SAID}ONE\n{SAID}TWO\n")
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1
    assert [question for question, _ in asked(calls)] == ["one", "two"]


@pytest.mark.parametrize("command", ["/frames", "/cost", "/save a.md"])
def test_before_the_first_answer_there_is_nothing_to_show(
    run: Run, calls: Calls, command: str
) -> None:
    done = run("chat", "a.mp4", "--quiet", stdin=f"{command}\none\n")
    assert (done.exit_code, done.stdout) == (2, f"{SAID}ONE\n")
    assert done.stderr == "error: nothing has been answered yet: ask a question first\n"


def test_frames_are_told_by_their_times(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", "--quiet", stdin="one\n/frames\n")
    assert done.stdout.splitlines()[-1] == "3 frames: 0:00.0, 0:29.1, 1:02:05.0"


def test_the_cost_is_that_of_the_last_answer(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", "--quiet", stdin="one\n/cost\n")
    assert done.exit_code == 0
    assert done.stdout == f"{SAID}ONE\n"
    assert "visual tokens  13,440 raw -> 3,360 merged" in done.stderr


def test_another_preset_holds_from_the_next_question_on(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", stdin="one\n/preset fast\ntwo\n")
    assert [call[0] for call in calls] == ["enter", "ask", "change", "ask", "exit"]
    assert calls[2] == ("change", "fast")
    assert "preset fast from the next question on\n" in done.stderr
    assert "made to fit" not in done.stderr


def test_a_preset_that_is_made_to_fit_says_so(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", "--fit", stdin="one\n/preset fast\ntwo\n")
    lines = done.stderr.splitlines()
    at = lines.index("preset fast from the next question on")
    assert lines[at + 1] == "warning: made to fit: 32 frames -> 16"


def test_help_lists_the_commands(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", stdin="/help\n")
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == ["/frames", "/cost", "/preset", "/save", "/help", "/quit", "Ctrl-C"]


def test_after_quit_nothing_is_read(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", stdin="one\n/quit\ntwo\n")
    assert (done.exit_code, done.stdout) == (0, f"{SAID}ONE\n")


def test_json_is_an_object_a_line(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", "--json", "--quiet", stdin="one\nrefused\ntwo\n")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["question"] for one in objects] == ["one", "two"]
    assert done.exit_code == 2


def test_an_answer_of_nothing_and_a_warning(run: Run, calls: Calls) -> None:
    done = run("chat", "a.mp4", stdin="nothing\nwarned\n")
    assert done.stdout == f"{SAID}WARNED\n"
    assert "warning: look out\n" in done.stderr


def test_settings_reach_the_session(run: Run, calls: Calls) -> None:
    written = (
        "--model demo --revision v1 --preset fast --method fastv --keep 1/4 --frames 128 "
        "--decoder decord --seek keyframe --newlines none --no-time-text --device cpu "
        "--dtype float32 --quantize nf4 --max-new-tokens 32 --temperature 0.7 --seed 11 "
        "--start 10:00 --skip-duplicates off --subtitles a.srt --no-cache"
    )
    assert run("chat", "a.mp4", *written.split(), stdin="").exit_code == 0
    _, wanted, model, placing, cache, many = calls[0]
    assert (wanted.path, wanted.preset, model, many) == ("a.mp4", "fast", "demo", True)
    assert (wanted.over.method, wanted.over.keep) == ("fastv", Fraction(1, 4))
    assert (wanted.over.frames, wanted.over.decoder, wanted.over.seek) == (
        128,
        "decord",
        "keyframe",
    )
    assert (wanted.over.newlines, wanted.over.time_text) == ("none", False)
    assert (wanted.sampling.max_new_tokens, wanted.sampling.temperature) == (32, 0.7)
    assert wanted.sampling.seed == 11
    assert (placing.revision, placing.device, placing.dtype) == ("v1", "cpu", "float32")
    assert placing.quantize == "nf4"
    assert (wanted.over.skip_duplicates, wanted.subtitles, cache) == ("off", "a.srt", None)
    assert wanted.over.start is not None


def test_several_pictures(run: Run, calls: Calls) -> None:
    assert run("chat", "a.jpg", "b.png", stdin="").exit_code == 0
    assert calls[0][1].path == ("a.jpg", "b.png")


def test_without_a_file_or_with_a_wrong_setting(run: Run, calls: Calls) -> None:
    assert run("chat").exit_code == 2
    done = run("chat", "a.mp4", "--budget", "0", stdin="one\n")
    assert (done.exit_code, calls) == (2, [])
    assert done.stderr.startswith("error: --budget is '0'; it must be")


def test_a_conversation_is_saved_as_markdown(run: Run, calls: Calls, tmp_path: Path) -> None:
    target = tmp_path / "a talk.MD"
    done = run("chat", "a.mp4", stdin=f'one\ntwo\x07\n/save "{target}"\n')
    assert done.exit_code == 0
    assert f"saved to {target}\n" in done.stderr
    about = "*aim: 3,360 visual tokens, 19.5 s*"
    assert target.read_text("utf-8") == (
        "# a.mp4\n\nlmms-lab/LLaVA-Video-7B-Qwen2, nf4\n\n"
        f"> one\n\nIt is ONE\n\n{about}\n\n> two\n\nIt is TWO\n\n{about}\n"
    )
    assert [name for name in os.listdir(tmp_path) if "talk" in name] == ["a talk.MD"]


def test_a_conversation_is_saved_as_json(run: Run, calls: Calls, tmp_path: Path) -> None:
    target = tmp_path / "talk.json"
    target.write_text("what was there before")
    target.chmod(0o640)
    done = run("chat", "a.mp4", "--json", stdin=f"one\ntwo\n/save {target}\n")
    written = json.loads(target.read_text())
    assert written["files"] == ["a.mp4"]
    assert written["answers"] == [json.loads(line) for line in done.stdout.splitlines()]
    assert target.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_saved_leaves_what_was_there(run: Run, calls: Calls, tmp_path: Path) -> None:
    folder = tmp_path / "talk.md"
    folder.mkdir()
    done = run("chat", "a.mp4", "--quiet", stdin=f"one\n/save {folder}\n")
    assert done.exit_code == 2
    assert f"{folder}: cannot be written: " in done.stderr
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00.0"), (59.99, "0:59.9"), (600.3, "10:00.3"), (3725, "1:02:05.0")],
)
def test_moments(part: Callable[[str], Any], seconds: float, shown: str) -> None:
    assert part("talk").moment(seconds) == shown


_OWN_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed here is a signal there
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Terminal:
    """`chat` as a process at a terminal of 40 columns."""

    def __init__(self, *arguments: str, out: int | None = None) -> None:
        self._leader, follower = pty.openpty()
        plain = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, str(STUB), "chat", *arguments],
            stdin=follower,
            stdout=follower if out is None else out,
            stderr=follower,
            env=plain | {"TERM": "dumb", "COLUMNS": "40", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        os.close(follower)
        self.seen = ""

    def until(self, text: str) -> str:
        """All that was shown up to `text`, since the last call."""
        give_up = time.monotonic() + 120
        while text not in self.seen:
            ready, _, _ = select.select([self._leader], [], [], 1)
            if ready:
                self.seen += os.read(self._leader, 4096).decode()
            assert time.monotonic() < give_up, self.seen
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        # readline shows its prompt a moment before it listens: a signal in between waits for a key.
        time.sleep(0.2)
        os.write(self._leader, text.encode())

    def ends(self) -> int:
        code = self.process.wait(timeout=120)
        os.close(self._leader)
        return code


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **more: Any) -> Terminal:
        opened.append(Terminal(*arguments, **more))
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_a_conversation_at_a_terminal(terminal: Callable[..., Terminal]) -> None:
    """Ctrl-C stops the answer and not the chat; what a model says does not retitle the window."""
    at = terminal("a.mp4", "--quiet")
    at.until("> ")
    at.type("first\n")
    assert "title" not in at.until("It is FIRST")
    at.until("> ")
    at.type("endless\n")
    at.until("and so on and so on")
    at.type("\x03")
    at.until("stopped")
    at.until("> ")
    at.type("second\n")
    at.until("It is SECOND")
    at.until("> ")
    at.type("/nope\n")
    at.until("error: no command /nope")
    at.until("> ")
    at.type("\x04")
    assert at.ends() == 0


def test_ctrl_c_twice_in_a_row_leaves(terminal: Callable[..., Terminal]) -> None:
    at = terminal("a.mp4")
    at.until("a.mp4: ask, or /help; Ctrl-D leaves")
    at.until("> ")
    at.type("\x03")
    at.until("Ctrl-C again or Ctrl-D leaves")
    at.until("> ")
    at.type("first\n")
    at.until("It is FIRST")
    at.until("> ")
    at.type("\x03")
    at.until("Ctrl-C again or Ctrl-D leaves")
    at.until("> ")
    at.type("\x03")
    assert at.ends() == 130


def test_before_a_word_has_come_ctrl_c_stops_at_once(terminal: Callable[..., Terminal]) -> None:
    at = terminal("a.mp4", "--quiet")
    at.until("> ")
    at.type("slow\n")
    time.sleep(0.3)
    at.until("slow")
    at.type("\x03")
    at.until("stopped; Ctrl-C again or Ctrl-D leaves")
    at.until("> ")
    at.type("/quit\n")
    assert at.ends() == 0


def test_answers_may_go_to_a_file_while_someone_types(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as out:
        at = terminal("a.mp4", "--quiet", out=out.fileno())
        at.until("> ")
        at.type("first\n")
        at.until("> ")
        at.type("\x04")
        assert at.ends() == 0
    assert (tmp_path / "out").read_text() == f"{SAID}FIRST\n"


def test_piped_questions_are_interrupted_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "questions").write_text("endless\nfirst\n")
    names = ("questions", "out", "err")
    with (
        (tmp_path / names[0]).open("rb") as questions,
        (tmp_path / names[1]).open("wb") as out,
        (tmp_path / names[2]).open("wb") as err,
    ):
        running = subprocess.Popen(
            [sys.executable, str(STUB), "chat", "a.mp4", "--quiet"],
            stdin=questions,
            stdout=out,
            stderr=err,
        )
        give_up = time.monotonic() + 120
        while (tmp_path / "out").stat().st_size == 0 and time.monotonic() < give_up:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=120) == 130
    assert (tmp_path / "err").read_text() == "error: interrupted\n"
    assert "FIRST" not in (tmp_path / "out").read_text()


def test_nothing_heavy_is_imported_for_its_help(command: list[str]) -> None:
    shown = subprocess.run(
        [*command, "chat", "--help"],
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "/help lists them" in shown.stdout
    named = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    imported = {name.partition(".")[0] for name in named}
    assert "typer" in imported  # the measurement works
    assert imported & {"torch", "transformers", "numpy", "av"} == set()
