"""What people see while a batch runs: plain lines, the live table at any size, bundled failures."""

from __future__ import annotations

import doctest
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tokenreduce.batch.happenings import (
    FileDone,
    Happening,
    Known,
    Planned,
    Recorded,
    Stage,
    Stopping,
    Trouble,
    WorkerGone,
    WorkerReady,
)
from tokenreduce.batch.rows import Failure, Row

Part = Callable[[str], ModuleType]

HOSTILE = "clips/a\x1b[2J\x1b]0;title\x07b\n[red]\u202ex\udcff.mp4"
SHOWN = "clips/a\\x1b[2J\\x1b]0;title\\x07b\\n[red]\\u202ex\\xff.mp4"
ANSWER = {"tokens": {"raw": 1000, "merged": 250}}


class Clock:
    """Seconds that go on only when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def row(file: str = "a.mp4", failure: Failure | None = None, worker: str = "w0") -> Row:
    status: Any = "failed" if failure else "answered"
    times = ("2026-01-01T00:00:00.000Z",) * 2
    answer = None if failure else ANSWER
    return Row("id", "k", "s", "c", file, "Q", status, 1, *times, "host", worker, answer, failure)


def answered(worker: str = "w0") -> Recorded:
    return Recorded(row(worker=worker))


def failed(file: str, reason: str = "not a video", worker: str = "w0") -> Recorded:
    return Recorded(row(file, Failure("InputError", reason), worker))


# Plain lines


def test_plain_lines_are_these(
    part: Part, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with part("batch_view").BatchView(quiet=False, clock=clock) as view:
        view(Planned(200, 400, ("w0", "w1")))
        view(Known("old.mp4", 2))
        clock.now += 10
        view(WorkerReady("w0", "cuda:0", 10.0))
        for _ in range(15):
            clock.now += 1
            view(answered())
        view(failed("clips/bad.mp4", "clips/bad.mp4: not a video; give one"))
        clock.now += 4
        view(Stage("w0", "a.mp4", "decode", 3, 64))  # 29 s after the first line
        clock.now += 1
        view(Stage("w0", "a.mp4", "decode", 4, 64))
        clock.now += 29
        view(Trouble("60 frames decoded of 64", file="c.mp4", worker="w0"))
        clock.now += 1
        view(answered())
        view(Stopping("interrupted"))
        view.interrupted()
        view(answered())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "batch: 400 rows of 200 files, 2 workers",
        "failed: clips/bad.mp4: InputError: not a video; give one",
        "batch: 15/400 answered, 1 failed, 2 known before, 48 rows/min, about 8 min left",
        "warning: c.mp4: 60 frames decoded of 64",
        "batch: 16/400 answered, 1 failed, 2 known before, 20 rows/min, about 19 min left",
        "stopping: finishing the current answers; Ctrl-C again drops them",
        "batch: 17/400 answered, 1 failed, 2 known before, 22 rows/min",
    ]


def test_a_batch_that_is_known_says_so_at_the_end(
    part: Part, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with part("batch_view").BatchView(quiet=False, clock=clock) as view:
        view(Planned(1, 3, ("w0",)))
        view(Known("old.mp4", 3, 1))
    assert capsys.readouterr().err.splitlines() == [
        "batch: 3 rows of 1 file, 1 worker",
        "batch: 0/3 answered, 3 known before",
    ]


def test_a_line_says_something_new(
    part: Part, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with part("batch_view").BatchView(quiet=False, clock=clock) as view:
        view(Planned(1, 4, ("w0",)))
        view(Planned(2, 8, ("w0",)))  # more was found
        for name in "abc":
            view(failed(f"{name}.mp4"))
        clock.now += 30
        view(answered())
        for name in "def":
            view(failed(f"{name}.mp4"))
        clock.now += 1
    view.summary("o.jsonl", "o.jsonl.ledger")
    assert capsys.readouterr().err.splitlines()[:7] == [
        "batch: 4 rows of 1 file, 1 worker",
        "failed: a.mp4: InputError: not a video",
        "failed: same for 2 more files: InputError: not a video",
        "batch: 1/8 answered, 3 failed, 8 rows/min, under a minute left",
        "failed: same for 3 more files: InputError: not a video",
        "batch: 1/8 answered, 6 failed, 14 rows/min, under a minute left",
        "answered       1 of 8 rows, 2 files",
    ]


def test_a_batch_that_never_got_to_ask_has_no_line_at_the_end(
    part: Part, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with part("batch_view").BatchView(quiet=False, clock=clock) as view:
        view(Planned(1, 4, ("w0",)))
    assert capsys.readouterr().err == "batch: 4 rows of 1 file, 1 worker\n"


@pytest.mark.parametrize("dropped", [False, True])
def test_the_rows_that_are_left_are_told_of_a_run_that_was_cut_short(
    part: Part, clock: Clock, capsys: pytest.CaptureFixture[str], dropped: bool
) -> None:
    view = part("batch_view").BatchView(quiet=False, clock=clock)
    with suppress(KeyboardInterrupt), view:
        view(Planned(1, 4, ("w0",)))
        view(answered())
        if dropped:
            raise KeyboardInterrupt
    view.summary("o.jsonl", "o.jsonl.ledger")
    assert ("3 rows left: run the same command again" in capsys.readouterr().err) is dropped


def test_quiet_shows_failures_and_nothing_else(
    part: Part, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with part("batch_view").BatchView(quiet=True, clock=clock) as view:
        view(Planned(2, 2, ("w0",)))
        view(Trouble("a warning", file="a.mp4"))
        view(failed(HOSTILE))
        view(Stopping("failures"))
    view.summary("o.jsonl", "o.jsonl.ledger")
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"failed: {SHOWN}: InputError: not a video\n")


def test_a_variable_that_forces_colours_makes_no_log_a_terminal(
    part: Part, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with part("batch_view").BatchView(quiet=False, clock=clock) as view:
        view(Planned(1, 1, ("w0",)))
    assert "\x1b[?25l" not in capsys.readouterr().err


# Speed and time left


def tally(part: Part, *told: tuple[float, Happening]) -> Any:
    made = part("batch_tally").Tally()
    for now, happening in told:
        made.see(happening, now)
    return made


def test_the_time_left_follows_from_the_rows_that_were_really_asked(part: Part) -> None:
    made = tally(
        part,
        (0.0, Planned(10, 120, ("w0",))),
        (1.0, Known("k.mp4", 90)),
        (100.0, WorkerReady("w0", "cpu", 100.0)),
        *((100.0, failed(f"missing{i}.mp4", worker="")) for i in range(10)),
    )
    assert made.rows_per_minute(100.0) is None
    assert made.seconds_left(100.0) is None
    for i in range(5):
        made.see(answered(), 103.0 + i)
    assert made.rows_per_minute(110.0) == pytest.approx(30)  # 5 rows in 10 s
    assert made.seconds_left(110.0) == pytest.approx(30)  # 120 - 90 - 10 - 5 = 15 rows
    assert (made.asked, made.done) == (5, 105)
    made.see(Stopping("failures"), 110.0)
    assert made.seconds_left(110.0) is None


def test_the_speed_is_that_of_the_last_rows(part: Part) -> None:
    made = tally(part, (0.0, Planned(1, 2000, ("w0",))), (0.0, WorkerReady("w0", "cpu", 1.0)))
    for i in range(1000):
        made.see(answered(), 0.01 * (i + 1))  # from the cache
    for i in range(200):
        made.see(answered(), 10.0 + 3 * (i + 1))
    assert made.rows_per_minute(610.0) == pytest.approx(20)
    assert made.seconds_left(610.0) == pytest.approx(800 * 3)


def test_a_row_that_copies_another_costs_nothing(part: Part) -> None:
    made = tally(
        part, (0.0, WorkerReady("w0", "cpu", 1.0)), (1.0, answered()), (1.0, Recorded(row(), True))
    )
    assert (made.answered, made.asked, made.sums.raw) == (2, 1, 1000)


@pytest.mark.parametrize("name", ["batch_lines", "batch_summary"])
def test_the_examples_in_their_docstrings(part: Part, name: str) -> None:
    done = doctest.testmod(part(name))
    assert done.attempted > 0
    assert done.failed == 0


# Bundling


def told(part: Part, *happenings: tuple[float, Happening]) -> list[str]:
    notices = part("batch_notices").Notices()
    found = []
    for now, happening in happenings:
        found += notices.see(happening, now) + notices.due(now)
    found += notices.rest()
    return [f"{notice.label}: {notice.text}" for notice in found]


def test_a_flood_of_equal_failures_is_bundled(part: Part) -> None:
    flood = [(0.1 * i, failed(f"in/{i}.mp4", f"in/{i}.mp4: no video")) for i in range(38)]
    assert told(part, *flood) == [
        "failed: in/0.mp4: InputError: no video",
        "failed: same for 37 more files: InputError: no video",
    ]


def test_questions_of_one_file_count_once(part: Part) -> None:
    rows = [(0.0, failed(name)) for name in "aaabbbccc"]
    assert told(part, *rows) == [
        "failed: a: InputError: not a video",
        "failed: same for 2 more files: InputError: not a video",
    ]


def test_one_more_is_told_by_its_name(part: Part) -> None:
    assert told(part, (0.0, failed("a.mp4")), (1.0, failed("b.mp4"))) == [
        "failed: a.mp4: InputError: not a video",
        "failed: b.mp4: InputError: not a video",
    ]


def test_a_bundle_waits_half_a_minute_and_what_comes_later_is_told_again(part: Part) -> None:
    lines = told(
        part,
        (0.0, failed("a")),
        (1.0, failed("b")),
        (29.0, failed("c")),
        (30.0, Stage("w0", "x", "decode")),  # now b and c are told
        (31.0, failed("d")),
        (59.0, failed("e")),
        (60.0, Stage("w0", "x", "decode")),
        (95.0, failed("f")),
    )
    assert lines == [
        "failed: a: InputError: not a video",
        "failed: same for 2 more files: InputError: not a video",
        "failed: same for 2 more files: InputError: not a video",
        "failed: f: InputError: not a video",
    ]


def test_failures_that_differ_in_numbers_alone_are_called_similar(part: Part) -> None:
    rows = [(0.0, failed(f"{i}", f"lasts {i}.25 s, so nothing starts at 60 s")) for i in range(4)]
    assert told(part, *rows)[1:] == [
        "failed: similar for 3 more files: InputError: lasts 0.25 s, so nothing starts at 60 s"
    ]


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (Trouble("m", "in/a.mp4", "w0"), "in/a.mp4: m"),
        (Trouble("in/a.mp4: m", "in/a.mp4"), "in/a.mp4: m"),
        (Trouble("/home/in/a.mp4: m", "a.mp4"), "a.mp4: m"),
        (Trouble("trying again: in/a b.mp4: m", "in/a b.mp4"), "in/a b.mp4: trying again: m"),
        (Trouble("see ba.mp4: m", "a.mp4"), "a.mp4: see ba.mp4: m"),
        (Trouble("see: in/a.mp4: m", "a.mp4"), "a.mp4: see: in/a.mp4: m"),
        (Trouble("died", worker="w0"), "w0: died"),
        (Trouble("worker w0 died", worker="w0"), "worker w0 died"),
        (Trouble("the disk is nearly full"), "the disk is nearly full"),
    ],
)
def test_a_warning_says_once_what_it_is_about(part: Part, trouble: Trouble, line: str) -> None:
    assert told(part, (0.0, trouble)) == [f"warning: {line}"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz"), st.floats(0, 20))))
def test_no_kind_of_failure_is_lost(part: Part, rows: list[tuple[str, str, float]]) -> None:
    now, happenings = 0.0, []
    for file, reason, later in rows:
        now += later
        happenings.append((now, failed(file, reason)))
    lines = told(part, *happenings)
    for reason in {reason for _, reason, _ in rows}:
        assert any(line.endswith(f": InputError: {reason}") for line in lines)
    assert len(lines) <= len(rows)


def test_many_kinds_of_failures_are_all_told_and_few_remembered(part: Part) -> None:
    notices = part("batch_notices").Notices()
    letters = "abcdefghijklmnopqrstuvwxyz"
    reasons = [a + b for a in letters for b in letters]
    lines = [notice for why in reasons for notice in notices.see(failed("f", why), 0.0)]
    assert len(lines) == len(reasons)
    assert len(notices._kinds) <= 64


# The live table


def filled(part: Part, clock: Clock, workers: int, file: str = HOSTILE) -> tuple[Any, Any]:
    """A tally and workers in the middle of a batch."""
    counted, hands = part("batch_tally").Tally(), part("batch_table").Workers()

    def tell(happening: Happening) -> None:
        counted.see(happening, clock.now)
        hands.see(happening, clock.now)

    names = tuple(f"gpu{i}" for i in range(workers))
    tell(Planned(1333, 4000, names))
    tell(Known("old.mp4", 500, 3))
    for i, name in enumerate(names):
        tell(WorkerReady(name, f"cuda:{i}", 12.0))
        tell(Stage(name, file, "decode", 34, 64))
    for _ in range(120):
        clock.now += 1
        tell(answered("gpu0"))
    tell(failed("bad.mp4", worker="gpu0"))
    return counted, hands


def lines_of(
    part: Part, clock: Clock, made: tuple[Any, Any], width: int, height: int = 24
) -> list[str]:
    whole, workers = part("batch_table").frame(*made, clock.now, width, height, unicode=True)
    return [*whole, *workers]


def test_the_table_as_it_is_drawn(part: Part, clock: Clock) -> None:
    made = filled(part, clock, 2, "clips/a.mp4")
    made[1].see(Stage("gpu0", "clips/b.mp4", "encode"), clock.now)
    made[1].see(FileDone("gpu1", "clips/a.mp4"), clock.now)
    assert lines_of(part, clock, made, 40) == [
        "batch ━━───────────────── 621/4,000  15%",
        "120 answered, 1 failed,",
        "500 known before, 60 rows/min,",
        "about 56 min left,",
        "90 k visual tokens saved (75%)",
        "gpu0  clips/a.mp4    decode 34/64  120 s",
        "gpu1  waiting",
    ]
    assert lines_of(part, clock, made, 100) == [
        "batch ━━━━━━────────────────────────────────── 621/4,000  15%",
        "120 answered, 1 failed, 500 known before, 60 rows/min, about 56 min left,",
        "90 k visual tokens saved (75%)",
        f"{'gpu0  cuda:0  clips/a.mp4':<67}decode 34/64  120 s  next: encode",
        "gpu1  cuda:1  waiting",
    ]


@pytest.mark.parametrize("width", [1, 10, 25, 40, 60, 80, 200])
@pytest.mark.parametrize("height", [3, 24])
@pytest.mark.parametrize("file", [HOSTILE, "视频" * 40 + ".mp4", "a.mp4"])
def test_it_fits_whatever_the_terminal(
    part: Part, clock: Clock, width: int, height: int, file: str
) -> None:
    made = filled(part, clock, 8, file)
    lines = lines_of(part, clock, made, width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) < height
    assert not any(character in "".join(lines) for character in "\x1b\n\x07\u202e\udcff")
    if width >= 40 and height == 24:
        assert len([line for line in lines if line.startswith("gpu")]) == 8
        assert all(" decode 34/64" in line for line in lines if line.startswith("gpu"))


def test_a_long_name_keeps_its_ends(part: Part, clock: Clock) -> None:
    made = filled(part, clock, 1, "clips/" + "very" * 30 + "/clip.mp4")
    (line,) = [line for line in lines_of(part, clock, made, 60) if line.startswith("gpu0")]
    assert line.startswith("gpu0  cuda:0  clips/")
    assert "…" in line
    assert "very/clip.mp4  decode 34/64  120 s" in line
    assert cell_len(line) == 60


def test_what_a_worker_does_stands_near_its_name(part: Part, clock: Clock) -> None:
    lines = lines_of(part, clock, filled(part, clock, 1), 250)
    assert max(map(cell_len, lines)) <= 120


def test_workers_without_room_are_counted(part: Part, clock: Clock) -> None:
    lines = lines_of(part, clock, filled(part, clock, 40), 80)
    assert len(lines) == 23
    shown = len([line for line in lines if line.startswith("gpu")])
    assert lines[-1] == f"and {40 - shown} more workers"


def test_ascii_where_blocks_would_not_show(part: Part, clock: Clock) -> None:
    counted, hands = filled(part, clock, 2, "clips/" + "long" * 30 + ".mp4")
    whole, workers = part("batch_table").frame(counted, hands, clock.now, 60, 24, unicode=False)
    assert "".join(whole + workers).isascii()
    assert whole[0].startswith("batch ######---")
    assert all("..." in line for line in workers)


def test_the_bar_is_full_only_at_the_end(part: Part, clock: Clock) -> None:
    bar = part("batch_table")._bar
    nearly = tally(part, (0.0, Planned(1, 1000, ())), (0.0, Known("a", 999)))
    assert bar(nearly, 60, unicode=False).endswith("- 999/1,000  99%")
    nearly.see(answered(), 1.0)
    assert bar(nearly, 60, unicode=False) == f"batch {'#' * 37} 1,000/1,000 100%"
    nearly.see(answered(), 1.0)  # more than was planned
    assert bar(nearly, 60, unicode=False).endswith(" 1,001/1,001 100%")
    assert bar(tally(part, (0.0, answered())), 60, unicode=False) == "batch 1 done"


def test_what_a_worker_is_at(part: Part, clock: Clock) -> None:
    hands = part("batch_table").Workers()

    def after(seconds: float, happening: Happening) -> str:
        clock.now += seconds
        hands.see(happening, clock.now)
        (line,) = hands.lines(clock.now, 90, 5, dots="…")
        return " ".join(line.split())

    assert after(0, Planned(2, 2, ("w0",))) == "w0 loading the model"
    assert after(9, WorkerReady("w0", "cpu", 9.0)) == "w0 cpu waiting"
    assert after(1, Stage("w0", "a.mp4", "decode", 0, 64)) == "w0 cpu a.mp4 decode 0/64 0 s"
    assert after(2, Stage("w0", "a.mp4", "prefill")) == "w0 cpu a.mp4 prefill 2 s"
    ahead = after(1, Stage("w0", "b.mp4", "decode", 5, 64))
    assert ahead == "w0 cpu a.mp4 prefill 3 s next: decode 5/64"
    assert after(1, Stage("w0", "a.mp4", "answer", 7)).startswith("w0 cpu a.mp4 answer 7 4 s")
    assert after(1, FileDone("w0", "a.mp4")) == "w0 cpu b.mp4 decode 5/64 0 s"
    assert after(3, FileDone("w0", "other.mp4")) == "w0 cpu b.mp4 decode 5/64 3 s"
    assert after(1, WorkerGone("w0")) == "w0 gone"
    assert after(1, WorkerReady("w0", "cpu", 9.0)) == "w0 cpu waiting"


def test_a_worker_named_like_its_device_is_named_once(part: Part, clock: Clock) -> None:
    hands = part("batch_table").Workers()
    hands.see(WorkerReady("cpu", "cpu", 1.0), clock.now)
    assert hands.lines(clock.now, 80, 5, dots="…") == ["cpu  waiting"]


def table(part: Part, clock: Clock, console: Console) -> tuple[Any, Any, Any]:
    """The table, the tally it shows, and what is told to both, as BatchView tells it."""
    counted, lock = part("batch_tally").Tally(), threading.RLock()
    shown = part("batch_view").Table(console, counted, lock, clock, unicode=True)

    def tell(happening: Happening) -> None:
        with lock:
            counted.see(happening, clock.now)
            shown.see(happening, clock.now)

    return shown, counted, tell


def terminal(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        force_interactive=True,
        width=width,
        height=24,
        color_system=None,
        markup=False,
        highlight=False,
        emoji=False,
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_happenings_are_drawn_by_the_clock_of_the_screen_not_by_their_number(
    part: Part, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = 0
    console = terminal()
    shown, _, tell = table(part, clock, console)
    taken = shown.picture
    monkeypatch.setattr(shown._live, "start", lambda: None)  # no thread: drawn when asked to
    shown._live._drawn.start()

    def counting(width: int, height: int) -> Any:
        nonlocal pictures
        pictures += 1
        return taken(width, height)

    shown._live._picture = counting
    for second in range(5):
        for _ in range(2500):
            tell(Stage("w0", f"{second}.mp4", "decode", 1, 64))
            tell(answered())
        assert pictures == second
        shown._live.draw()
        assert f"{(second + 1) * 2500:,} answered" in written(console)
    shown._live._drawn.stop()
    assert pictures == 5
    assert part("batch_live").REDRAW >= 0.25


def test_the_thread_draws_no_more_than_four_times_a_second(
    part: Part, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    asked = 0

    def picture(width: int, height: int) -> Any:
        nonlocal asked
        asked += 1
        return part("batch_live").Picture([], [])

    live = part("batch_live").Live(terminal(), picture)

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) > 10

    monkeypatch.setattr(live._stop, "wait", wait)
    live._run()
    assert set(waited) == {0.25}
    assert asked == 11  # at once, and after each wait but the last


def test_what_is_said_stays_above_and_the_table_goes(part: Part, clock: Clock) -> None:
    console = terminal()
    shown, _, tell = table(part, clock, console)
    notice = part("batch_notices").Notice
    tell(Planned(2, 4, ("w0",)))
    with shown._lock:
        shown.say(notice("failed", f"{HOSTILE}: InputError: [bold]no video"))
    shown.close()
    shown.close()
    text = written(console)
    assert f"failed: {SHOWN}: InputError: [bold]no video\n" in text
    assert text.count("[bold]") == 1
    assert "w0  loading the model" in text
    assert text.startswith("\x1b[?25l")
    assert "\x1b[?25h" in text
    cleared = text[text.index("\x1b[?25h") :]
    assert cleared.count("\x1b[2K") == 3  # the bar, the facts and the worker
    assert "w0" not in cleared


def test_the_driver_never_waits_for_a_terminal_that_is_stopped(part: Part, clock: Clock) -> None:
    free, blocked = threading.Event(), threading.Event()

    class Stopped(io.StringIO):
        def write(self, text: str) -> int:
            blocked.set()
            free.wait(20)
            return super().write(text)

    console = Console(file=Stopped(), force_terminal=True, force_interactive=True, width=80)
    shown, counted, tell = table(part, clock, console)
    tell(Planned(1, 400, ("w0",)))
    try:
        assert blocked.wait(20)
        for _ in range(300):
            tell(answered())
        assert counted.answered == 300  # all told while the first drawing hangs
        assert not free.is_set()
    finally:
        free.set()
        shown.close()
    assert "300 answered" in written(console)
    assert shown._live._thread is not None
    assert not shown._live._thread.is_alive()


def test_a_terminal_that_goes_away_does_not_end_the_batch(part: Part, clock: Clock) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    console = Console(file=Gone(), force_terminal=True, force_interactive=True, width=80)
    shown, counted, tell = table(part, clock, console)
    tell(Planned(1, 4, ("w0",)))
    shown._live._thread.join(20)
    tell(answered())
    shown.close()
    assert counted.answered == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False)])
def test_a_real_terminal_gets_the_table_and_a_dumb_one_lines(
    part: Part, clock: Clock, monkeypatch: pytest.MonkeyPatch, term: str, live: bool
) -> None:
    master, slave = os.openpty()
    monkeypatch.setenv("TERM", term)
    with open(slave, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with part("batch_view").BatchView(quiet=False, clock=clock) as view:
            view(Planned(1, 2, ("w0",)))
            view(failed(HOSTILE))
            clock.now += 1
        view.summary("o.jsonl", "o.jsonl.ledger")
        stream.flush()
        text = ""
        while "results retry o.jsonl --failed" not in text:  # the last line
            text += os.read(master, 65536).decode()
    os.close(master)
    assert ("\x1b[?25l" in text) is live
    assert ("\x1b[?25h" in text) is live
    assert ("batch: 2 rows of 1 file, 1 worker" in text) is not live
    assert SHOWN in text
    table_end = text.rindex("\x1b[2K") if live else 0
    assert "answered       0 of 2 rows, 1 file" in text[table_end:].replace("\x1b[36m", "").replace(
        "\x1b[0m", ""
    )


def test_help_waits_for_nothing_that_draws() -> None:
    """The modules are imported with the command line; rich.live is not before it is needed."""
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "from importlib.metadata import entry_points\n"
        "(script,) = entry_points(group='console_scripts', name='tokenreduce')\n"
        "import_module(script.module + '.batch_view')\n"
        "print([name for name in ('rich.live', 'rich.table', 'torch') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
