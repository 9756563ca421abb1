"""The driver with workers that answer, fail, die and hang: every row once, and none lost."""

from __future__ import annotations

import json
import os
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenreduce.batch.driver import Driver
from tokenreduce.batch.exporting import Projection
from tokenreduce.batch.feeding import Feed
from tokenreduce.batch.happenings import FileDone, Happening, Known, Recorded, Stopping, Trouble
from tokenreduce.batch.jobs import Asked, Job
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.owing import Owing
from tokenreduce.batch.policy import Outcome, Policy
from tokenreduce.batch.rows import Failure, Row, id_of
from tokenreduce.errors import CapacityError, ModelError

_STUB = runpy.run_path(str(Path(__file__).with_name("stub_pool.py")))
StubPool, DIE, UNREAD = _STUB["StubPool"], _STUB["DIE"], _STUB["Unread"]
DIGEST = "77" * 32
BUG = Failure("RuntimeError", "it broke")


class Desk:
    """A folder with files, a ledger in it, and runs over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out.jsonl"
        self.seen: list[Happening] = []
        self.pool: Any = None

    def files(self, *names: str) -> None:
        for name in names:
            (self.folder / name).write_bytes(f"content of {name}".encode())

    def jobs(self, names: Sequence[str], *questions: str) -> list[Job]:
        asked = tuple(Asked(question) for question in questions or ("Q?",))
        return [Job(str(self.folder / name), asked) for name in names]

    def run(
        self,
        jobs: Sequence[Job],
        behave: Callable[[str, str], Any] | None = None,
        *,
        workers: tuple[str, ...] = ("a",),
        refused: dict[str, str] | None = None,
        again: bool = False,
        interrupt_at: int | None = None,
        warned: tuple[str, ...] = (),
        **policy: Any,
    ) -> Outcome:
        path = ledger_of(self.output)
        self.pool = StubPool(behave or agree, workers, refused or {}, warned)
        self.seen = []
        with Ledger.open(path) if path.exists() else Ledger.create(path) as ledger:
            ledger.add_settings(DIGEST, {}, {})
            with Projection(self.output, ledger) as projection, Feed(jobs, ledger) as feed:
                projection.rewrite()
                owing = Owing(ledger, DIGEST, again=again)

                def watch(happening: Happening) -> None:
                    self.seen.append(happening)
                    if isinstance(happening, Recorded) and len(self.rows) == interrupt_at:
                        driver.interrupt()

                driver = Driver(ledger, projection, owing, self.pool, Policy(**policy), watch)
                outcome = driver.run(feed)
                projection.finish()
        return outcome

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.seen if isinstance(one, kind)]

    @property
    def rows(self) -> list[Row]:
        with Ledger.open(ledger_of(self.output), readonly=True) as ledger:
            return list(ledger.rows())

    @property
    def by_file(self) -> dict[str, Row]:
        return {os.path.basename(row.file): row for row in self.rows}

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def agree(file: str, question: str) -> str:
    return "yes"


def test_what_a_worker_says_of_its_device_is_told(desk: Desk) -> None:
    desk.files("a.mp4")
    desk.run(desk.jobs(["a.mp4"]), warned=("only slow attention",))
    assert desk.of(Trouble) == [Trouble("only slow attention", worker="a")]


def break_down(file: str, question: str) -> Failure:
    return BUG


def hang_at(name: str) -> Callable[[str, str], Any]:
    return lambda file, _: None if file == name else "yes"


def never(file: str, question: str) -> str:
    raise AssertionError(f"{file} was asked {question}")


def test_each_row_once_and_on_disk(desk: Desk) -> None:
    names = [f"{n}.mp4" for n in range(7)]
    desk.files(*names)
    outcome = desk.run(desk.jobs(names, "Q?", "R?"), lambda f, q: f"{f} {q}", workers=("a", "b"))
    assert (outcome.answered, outcome.failed, outcome.known) == (14, 0, 0)
    assert outcome.stopped is None
    rows = desk.rows
    assert len({row.id for row in rows}) == 14
    for row in rows:
        assert row.answer is not None
        assert row.answer["answer"] == f"{os.path.basename(row.file)} {row.question}"
        assert (row.status, row.attempts, row.failure) == ("answered", 1, None)
    assert desk.lines == [row.to_json() for row in rows]
    assert set(desk.pool.started) == {"a", "b"}
    assert Counter(one.file for one in desk.of(FileDone)) == Counter(
        str(desk.folder / name) for name in names
    )


def test_what_is_there_is_not_asked_again(desk: Desk) -> None:
    names = ["1.mp4", "2.mp4", "3.mp4"]
    desk.files(*names)
    desk.run(desk.jobs(names[:2]))
    before = desk.rows
    outcome = desk.run(desk.jobs(names), lambda f, q: "new" if f == "3.mp4" else never(f, q))
    assert (outcome.answered, outcome.known) == (1, 2)
    assert desk.rows[:2] == before
    outcome = desk.run(desk.jobs(names), never)
    assert (outcome.answered, outcome.known, desk.pool.started) == (0, 3, [])
    (desk.folder / "1.mp4").rename(desk.folder / "other.mp4")
    assert desk.run(desk.jobs(["other.mp4"]), never).known == 1
    assert desk.lines[0]["also"] == [str(desk.folder / "other.mp4")]


def test_another_question_or_other_content_is_another_row(desk: Desk) -> None:
    desk.files("1.mp4")
    desk.run(desk.jobs(["1.mp4"]))
    assert desk.run(desk.jobs(["1.mp4"], "Other?")).answered == 1
    (desk.folder / "1.mp4").write_bytes(b"something else")
    assert desk.run(desk.jobs(["1.mp4"])).answered == 1
    assert len(desk.rows) == 3


def test_a_failure_is_one_row_and_stays_one_until_asked_again(desk: Desk) -> None:
    names = ["1.mp4", "bad.mp4", "2.mp4"]
    desk.files(*names)
    bad = Failure("InputError", "bad.mp4: is no video")

    def behave(file: str, question: str) -> Any:
        return bad if file == "bad.mp4" else "yes"

    outcome = desk.run(desk.jobs(names), behave, retries=2)
    assert (outcome.answered, outcome.failed) == (2, 1)
    row = desk.by_file["bad.mp4"]
    assert (row.status, row.failure, row.answer, row.attempts) == ("failed", bad, None, 1)
    outcome = desk.run(desk.jobs(names), never)
    assert (outcome.known, outcome.known_failed) == (3, 1)
    assert desk.of(Known)[1].failed == 1
    outcome = desk.run(desk.jobs(names), again=True)
    assert (outcome.answered, outcome.failed, outcome.known) == (1, 0, 2)
    assert desk.by_file["bad.mp4"].attempts == 2
    assert len(desk.lines) == 3
    assert all(line["status"] == "answered" for line in desk.lines)


def test_what_may_pass_is_tried_again(desk: Desk) -> None:
    desk.files("1.mp4", "2.mp4")
    tries = Counter[str]()

    def behave(file: str, question: str) -> Any:
        tries[file] += 1
        return BUG if tries[file] <= 2 else "at last"

    outcome = desk.run(desk.jobs(["1.mp4", "2.mp4"]), behave, retries=2)
    assert outcome.answered == 2
    assert {row.attempts for row in desk.rows} == {3}
    (desk.folder / "1.mp4").write_bytes(b"new")
    tries.clear()
    assert desk.run(desk.jobs(["1.mp4"]), behave, retries=1).failed == 1
    assert desk.rows[-1].attempts == 2
    assert desk.rows[-1].failure == BUG


def test_a_file_that_kills_its_workers_is_left_alone_after_two(desk: Desk) -> None:
    names = ["1.mp4", "bad.mp4", "2.mp4", "3.mp4"]
    desk.files(*names)

    def behave(file: str, question: str) -> Any:
        return DIE if (file, question) == ("bad.mp4", "R?") else "yes"

    outcome = desk.run(desk.jobs(names, "Q?", "R?", "S?"), behave)
    assert (outcome.answered, outcome.failed) == (10, 2)  # what bad.mp4 said before stays
    failed = [row for row in desk.rows if row.status == "failed"]
    assert {(os.path.basename(row.file), row.question) for row in failed} == {
        ("bad.mp4", "R?"),
        ("bad.mp4", "S?"),
    }
    assert all(row.failure and row.failure.kind == "WorkerDied" for row in failed)
    assert all("crashed (SIGSEGV)" in row.failure.reason for row in failed if row.failure)
    assert len(desk.pool.started) == 3
    alone = {os.path.basename(task.path) for _, task in desk.pool.given if task.alone}
    assert "bad.mp4" in alone
    assert alone <= {"bad.mp4", "2.mp4"}  # the innocent one may have been in hand, too
    assert len(desk.of(Trouble)) >= 2


def test_a_file_that_takes_too_long_is_ended(desk: Desk) -> None:
    names = ["slow.mp4", "1.mp4", "2.mp4"]
    desk.files(*names)
    outcome = desk.run(desk.jobs(names), hang_at("slow.mp4"), timeout_seconds=0.3)
    assert (outcome.answered, outcome.failed) == (2, 1)
    failure = desk.by_file["slow.mp4"].failure
    assert failure is not None
    assert failure.kind == "Timeout"
    assert "0.3 s" in failure.reason
    row = desk.by_file["slow.mp4"]
    assert row.finished > row.started
    assert not any(task.alone for _, task in desk.pool.given)  # nobody else was suspected


def test_the_same_content_is_asked_once(desk: Desk) -> None:
    desk.files("1.mp4")
    os.link(desk.folder / "1.mp4", desk.folder / "2.mp4")
    asked = Counter[str]()

    def behave(file: str, question: str) -> str:
        asked[question] += 1
        return "yes"

    assert desk.run(desk.jobs(["1.mp4", "2.mp4"]), behave).answered == 1
    assert asked == {"Q?": 1}
    (line,) = desk.lines
    assert line["also"] == [str(desk.folder / "2.mp4")]


def test_ids_of_the_user_are_each_a_row_though_asked_once(desk: Desk) -> None:
    desk.files("1.mp4")
    path = str(desk.folder / "1.mp4")
    asked = Counter[str]()

    def behave(file: str, question: str) -> str:
        asked[question] += 1
        return "yes"

    one = [Job(path, (Asked("Q?", "a"), Asked("Q?", "b")))]
    assert desk.run(one, behave).answered == 2
    assert desk.run([*one, Job(path, (Asked("Q?", "c"),))], behave).answered == 1
    assert asked == {"Q?": 1}
    assert [(row.id, row.answer and row.answer["answer"]) for row in desk.rows] == [
        ("a", "yes"),
        ("b", "yes"),
        ("c", "yes"),
    ]
    (desk.folder / "1.mp4").write_bytes(b"another film")
    assert desk.run(one, behave).answered == 2  # the same ids now mean something else
    assert sorted(row.id for row in desk.rows) == ["a", "b", "c"]


def test_a_missing_file_fails_and_is_asked_once_it_is_there(desk: Desk) -> None:
    desk.files("1.mp4")
    jobs = desk.jobs(["gone.mp4", "1.mp4"])
    outcome = desk.run(jobs)
    assert (outcome.answered, outcome.failed) == (1, 1)
    failure = desk.by_file["gone.mp4"].failure
    assert failure is not None
    assert "no such file" in failure.reason
    assert desk.run(jobs, never).known_failed == 1
    desk.files("gone.mp4")
    assert desk.run(jobs).answered == 1
    assert [row.status for row in desk.rows] == ["answered", "answered"]
    assert len(desk.lines) == 2


def test_a_file_that_was_away_leaves_no_failure_behind(desk: Desk) -> None:
    desk.files("1.mp4", "2.mp4")
    jobs = desk.jobs(["1.mp4", "2.mp4"])
    assert desk.run(jobs).answered == 2
    (desk.folder / "2.mp4").rename(desk.folder / "away")
    outcome = desk.run(jobs, never)
    assert (outcome.known, outcome.failed, len(desk.rows)) == (1, 1, 3)
    (desk.folder / "away").rename(desk.folder / "2.mp4")
    outcome = desk.run(jobs, never)
    assert (outcome.known, outcome.known_failed) == (2, 0)
    assert [line["status"] for line in desk.lines] == ["answered", "answered"]


def test_a_file_that_is_away_takes_no_answer_with_it(desk: Desk) -> None:
    desk.files("1.mp4")
    path = str(desk.folder / "1.mp4")
    desk.run([Job(path, (Asked("Q?", "a"),))])
    before = desk.rows
    (desk.folder / "1.mp4").rename(desk.folder / "away")
    outcome = desk.run([Job(path, (Asked("Q?", "a"), Asked("R?", "b")))], never)
    assert (outcome.known, outcome.known_failed, outcome.failed) == (1, 0, 1)
    assert desk.rows[:1] == before
    # Another question under its id is another matter.
    assert desk.run([Job(path, (Asked("S?", "a"),))], never).failed == 1
    assert [(row.id, row.status) for row in desk.rows] == [("b", "failed"), ("a", "failed")]


def test_an_id_of_the_user_and_none_are_two_rows_in_the_first_run(desk: Desk) -> None:
    desk.files("1.mp4")
    jobs = [Job(str(desk.folder / "1.mp4"), (Asked("Q?", "a"), Asked("Q?")))]
    assert desk.run(jobs).answered == 2
    assert desk.pool.given[0][1].wanted[0].id == "a"
    rows = desk.rows
    assert rows[1].id == id_of(rows[1].key)
    assert desk.run(jobs, never).known == 2


@pytest.mark.parametrize("id", [None, "mine"])
def test_a_file_that_changed_in_a_workers_hand_is_asked_by_the_next_run(
    desk: Desk, id: str | None
) -> None:
    """Also under another name: the failure was not about the content."""
    desk.files("1.mp4", "2.mp4")
    jobs = [
        Job(str(desk.folder / "1.mp4"), (Asked("Q?", id),)),
        Job(str(desk.folder / "2.mp4"), (Asked("Q?", "other"),)),
    ]
    os.remove(desk.folder / "2.mp4")
    os.link(desk.folder / "1.mp4", desk.folder / "2.mp4")
    gone = Failure("InputError", "1.mp4: no such file")
    outcome = desk.run(jobs, lambda *_: UNREAD(gone))
    assert (outcome.failed, [row.failure for row in desk.rows]) == (2, [gone, gone])
    outcome = desk.run(jobs)
    assert (outcome.answered, outcome.known) == (2, 0)
    assert [row.status for row in desk.rows] == ["answered", "answered"]
    assert desk.run(jobs, never).known == 2


@pytest.mark.parametrize("now", [None, b"a video", b"the other video"])
def test_asked_again_a_failure_of_what_is_there_no_more_goes(desk: Desk, now: bytes | None) -> None:
    """Gone; replaced; replaced by what was asked already."""
    bad, other = desk.folder / "bad.mp4", desk.folder / "other.mp4"
    bad.write_bytes(b"damaged")
    other.write_bytes(b"the other video")
    jobs = desk.jobs(["bad.mp4", "other.mp4"])

    def behave(file: str, question: str) -> Any:
        return Failure("InputError", "no video") if file == "bad.mp4" else "yes"

    desk.run(jobs, behave)
    (failed,) = (row for row in desk.rows if row.status == "failed")
    bad.unlink()
    if now is not None:
        bad.write_bytes(now)
    again = [Job(str(bad), (Asked("Q?", None, failed.id),))]
    for _ in range(2):
        outcome = desk.run(again, again=True)
        left = {row.id for row in desk.rows if row.status == "failed"}
        assert failed.id not in left
        assert len(left) == outcome.failed == (now is None)


def test_ctrl_c_is_heard_among_what_is_known(desk: Desk) -> None:
    names = [f"{n}.mp4" for n in range(300)]
    desk.files(*names)
    desk.run(desk.jobs(names))
    ledger = Ledger.open(ledger_of(desk.output))
    known: list[Happening] = []

    def watch(happening: Happening) -> None:
        if isinstance(happening, Known):
            known.append(happening)
            if len(known) == 3:
                driver.interrupt()

    with (
        ledger,
        Projection(desk.output, ledger) as projection,
        Feed(desk.jobs(names), ledger) as feed,
    ):
        driver = Driver(ledger, projection, Owing(ledger, DIGEST), StubPool(never), watch=watch)
        assert driver.run(feed).stopped == "interrupted"
    assert len(known) == 3


def test_so_many_failures_end_the_run(desk: Desk) -> None:
    names = [f"{n}.mp4" for n in range(9)]
    desk.files(*names)
    outcome = desk.run(desk.jobs(names), break_down, max_failures=3)
    assert outcome.stopped == "failures"
    assert 3 <= outcome.failed <= 5  # what was on the way is told, too
    assert desk.of(Stopping) == [Stopping("failures")]
    assert len(desk.lines) == outcome.failed
    assert desk.run(desk.jobs(names)).answered == 9 - outcome.failed


def test_an_interrupt_finishes_the_answer_and_a_second_run_the_rest(desk: Desk) -> None:
    names = [f"{n}.mp4" for n in range(5)]
    desk.files(*names)
    outcome = desk.run(desk.jobs(names, "Q?", "R?"), interrupt_at=3)
    assert outcome.stopped == "interrupted"
    assert 3 <= outcome.answered < 10
    assert desk.of(Stopping) == [Stopping("interrupted")]
    done = outcome.answered
    assert desk.run(desk.jobs(names, "Q?", "R?")).answered == 10 - done
    assert len({row.id for row in desk.rows}) == len(desk.lines) == 10


def test_a_second_interrupt_drops_what_is_on_the_way(desk: Desk) -> None:
    desk.files("1.mp4", "hangs.mp4")

    calls: list[int] = []
    pool = StubPool(hang_at("hangs.mp4"))
    heard = pool.next

    def impatient(seconds: float) -> Any:
        told = heard(seconds)
        if told is None and desk.of(Recorded) and len(calls) < 2:
            calls.append(driver.interrupt())
        return told

    pool.next = impatient
    with (
        Ledger.create(ledger_of(desk.output)) as ledger,
        Projection(desk.output, ledger) as projection,
        Feed(desk.jobs(["1.mp4", "hangs.mp4"]), ledger) as feed,
    ):
        driver = Driver(ledger, projection, Owing(ledger, DIGEST), pool, watch=desk.seen.append)
        outcome = driver.run(feed)
    assert calls == [1, 2]
    assert (outcome.answered, outcome.stopped) == (1, "interrupted")


def test_where_no_worker_can_work_the_reason_is_told(desk: Desk) -> None:
    desk.files("1.mp4")
    with pytest.raises(ModelError, match="has no memory"):
        desk.run(desk.jobs(["1.mp4"]), refused={"a": "ModelError"})
    with pytest.raises(CapacityError, match="has no memory"):
        desk.run(
            desk.jobs(["1.mp4"]),
            workers=("a", "b"),
            refused={"a": "CapacityError", "b": "CapacityError"},
        )
    assert desk.rows == []
    outcome = desk.run(desk.jobs(["1.mp4"]), workers=("a", "b"), refused={"a": "CapacityError"})
    assert outcome.answered == 1
    assert desk.rows[0].worker == "b"


def test_a_ledger_that_cannot_be_written_ends_the_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.files("1.mp4", "2.mp4", "3.mp4")
    record, said = Ledger.record, OSError("disk full")

    def full(self: Ledger, row: Row, *, forget: str | None = None) -> None:
        if len(desk.of(Recorded)) == 2:
            raise said
        record(self, row, forget=forget)

    monkeypatch.setattr(Ledger, "record", full)
    with pytest.raises(OSError, match="disk full"):
        desk.run(desk.jobs(["1.mp4", "2.mp4", "3.mp4"]))
    monkeypatch.setattr(Ledger, "record", record)
    assert len(desk.rows) == 2
    assert desk.run(desk.jobs(["1.mp4", "2.mp4", "3.mp4"])).answered == 1


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    plan=st.lists(st.sampled_from(["ok", "die", "die once", "bug", "bad"]), min_size=1, max_size=9),
    workers=st.integers(1, 3),
    retries=st.integers(0, 2),
    questions=st.integers(1, 3),
)
def test_whatever_happens_each_row_is_told_once(
    tmp_path_factory: pytest.TempPathFactory,
    plan: list[str],
    workers: int,
    retries: int,
    questions: int,
) -> None:
    desk = Desk(tmp_path_factory.mktemp("run"))
    names = [f"{n}-{what}.mp4" for n, what in enumerate(plan)]
    desk.files(*names)
    died = set()

    def behave(file: str, question: str) -> Any:
        what = file.split("-")[1].removesuffix(".mp4")
        if what == "die" or (what == "die once" and file not in died):
            died.add(file)
            return DIE
        return {"bug": BUG, "bad": Failure("InputError", "no video")}.get(what, "yes")

    asked = [f"Q{n}?" for n in range(questions)]
    outcome = desk.run(
        desk.jobs(names, *asked),
        behave,
        workers=tuple("abc"[:workers]),
        retries=retries,
    )
    rows = desk.rows
    assert Counter((os.path.basename(row.file), row.question) for row in rows) == Counter(
        (name, question) for name in names for question in asked
    )
    killers = sum(what.startswith("die") for what in plan)
    for row in rows:
        if row.file.endswith("-die once.mp4") and killers > 1:
            continue  # it may have been in hand when another killed its worker: two deaths
        fine = row.file.endswith(("-ok.mp4", "-die once.mp4"))
        assert (row.status == "answered") == fine, row
    assert (outcome.answered, outcome.failed) == (
        sum(row.status == "answered" for row in rows),
        sum(row.status == "failed" for row in rows),
    )
    assert [line["id"] for line in desk.lines] == [row.id for row in rows]
