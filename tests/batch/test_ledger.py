"""What a ledger keeps, and that it comes back as it was."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch.ledger import Counts, Ledger, Stand, ledger_of
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.rows import Failure, Row, SteppedDown
from tokenreduce.cache.digest import FileState, of_file

MakeRow = Callable[..., Row]

STATE = FileState(1, 2, 3, 4, 5)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "answers.jsonl.ledger") as made:
        yield made


def _numbers(rows: Iterator[Row]) -> list[int]:
    return [int(row.content, 16) for row in rows]


def test_the_ledger_lies_beside_the_output(tmp_path: Path) -> None:
    assert ledger_of(tmp_path / "a b.jsonl") == tmp_path / "a b.jsonl.ledger"


ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=40)
"""Lone surrogates and NUL included."""
JSON_TEXT = st.text(
    st.characters(exclude_categories=()).filter(lambda c: not "\ud800" <= c < "\udc00")
)
"""JSON cannot tell a pair of lone surrogates from the character they mean; file names have but the
second halves."""
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | JSON_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JSON_TEXT, inner, max_size=4),
    max_leaves=10,
)
COUNTS = st.integers(0, 2**63 - 1)
ROWS = st.builds(
    Row,
    id=ANY_TEXT,
    key=ANY_TEXT,
    settings=ANY_TEXT,
    content=ANY_TEXT,
    file=ANY_TEXT,
    question=ANY_TEXT,
    status=st.sampled_from(["answered", "failed"]),
    attempts=COUNTS,
    started=st.just("2026-01-02T03:04:05.006Z"),
    finished=st.just("1970-01-01T00:00:00.000Z"),
    host=ANY_TEXT,
    worker=ANY_TEXT,
    answer=st.none() | st.dictionaries(JSON_TEXT, VALUES, max_size=5),
    failure=st.none() | st.builds(Failure, ANY_TEXT, ANY_TEXT),
    stepped_down=st.none() | st.builds(SteppedDown, COUNTS, COUNTS),
    trace=st.none() | ANY_TEXT,
)


def test_rows_of_any_content_come_back(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger") as ledger:

        @given(st.lists(ROWS, min_size=1, max_size=4))
        def check(rows: list[Row]) -> None:
            expected: dict[tuple[str, str], Row] = {}
            with ledger.together():
                for row in rows:
                    ledger.record(row)
                    expected.pop((row.id, row.settings), None)
                    expected[row.id, row.settings] = row
            for row in expected.values():
                assert ledger.find(row.id, row.settings) == row
                assert ledger.stand(row.id, row.settings) == (row.status, row.attempts, row.key)
            newest = list(ledger.rows())[-len(expected) :]
            assert newest == list(expected.values())

        check()


@given(a=ANY_TEXT, b=ANY_TEXT)
def test_no_two_texts_are_kept_alike(a: str, b: str) -> None:
    from tokenreduce.batch.ledger_rows import restored, stored

    assert restored(stored(a)) == a
    assert (stored(a) == stored(b)) == (a == b)


def test_order_is_that_of_recording_whatever_the_clock_says(
    ledger: Ledger, make_row: MakeRow
) -> None:
    for number in (5, 3, 9, 1):
        ledger.record(make_row(number, finished=f"20{number:02d}-01-01T00:00:00.000Z"))
    ledger.record(make_row(3, attempts=2, finished="1999-01-01T00:00:00.000Z"))
    assert _numbers(ledger.rows()) == [5, 9, 1, 3]


def test_a_number_that_was_given_is_not_given_again(tmp_path: Path, make_row: MakeRow) -> None:
    """Else the last row, recorded anew, would change places after a restart."""
    path = tmp_path / "ledger"
    with Ledger.create(path) as ledger:
        ledger.record(make_row(1))
        ledger.record(make_row(2))
        ledger.record(make_row(1), forget=make_row(2).id)
    with Ledger.open(path) as ledger:
        ledger.record(make_row(3))
        assert _numbers(ledger.rows()) == [1, 3]
        numbers = ledger._base.all("SELECT sequence FROM rows ORDER BY sequence")
    assert numbers == [(3,), (4,)]


def test_a_placeholder_goes_as_the_row_comes(ledger: Ledger, make_row: MakeRow) -> None:
    ledger.record(make_row(1, "InputError", id="gone"))
    ledger.record(make_row(2, "InputError", id="gone", settings="other"))
    ledger.record(make_row(1), forget="gone")
    assert ledger.find("gone", make_row(1).settings) is None
    assert ledger.find("gone", "other") is not None
    assert ledger.counts().rows == 2


def test_one_id_under_two_settings_is_two_rows(ledger: Ledger, make_row: MakeRow) -> None:
    ledger.record(make_row(1))
    ledger.record(make_row(1, settings="other"))
    assert [row.settings for row in ledger.rows()] == [make_row(1).settings, "other"]
    assert [row.settings for row in ledger.rows(settings="other")] == ["other"]


def test_where_rows_stand(ledger: Ledger, make_row: MakeRow) -> None:
    kinds = [None, "Timeout", "InputError", None, "Timeout", None]
    for number, kind in enumerate(kinds):
        ledger.record(make_row(number, kind))
    ledger.record(make_row(99, "WorkerDied", settings="other"))
    timeout = make_row(1)
    assert ledger.stand(timeout.id, timeout.settings) == Stand("failed", 1, timeout.key)
    assert ledger.stand("nothing", timeout.settings) is None
    assert ledger.counts(timeout.settings) == Counts(3, 3, {"Timeout": 2, "InputError": 1})
    everything = ledger.counts()
    assert everything == Counts(3, 4, {"Timeout": 2, "InputError": 1, "WorkerDied": 1})
    assert list(everything.failures) == ["Timeout", "InputError", "WorkerDied"]
    assert ledger.counts("none of these") == Counts(0, 0, {})
    assert _numbers(ledger.rows(status="failed")) == [1, 2, 4, 99]
    assert _numbers(ledger.rows(status="failed", settings=timeout.settings)) == [1, 2, 4]
    assert _numbers(ledger.rows(status="answered")) == [0, 3, 5]


def test_an_answer_is_found_by_its_key(ledger: Ledger, make_row: MakeRow) -> None:
    ledger.record(make_row(1, "Timeout", id="first"))
    assert ledger.answered(make_row(1).key) is None
    for id in ("second", "third"):
        ledger.record(make_row(1, id=id))
    found = ledger.answered(make_row(1).key)
    assert found is not None
    assert found.id == "second"


def test_rows_stand_still_while_others_are_recorded(ledger: Ledger, make_row: MakeRow) -> None:
    """The retry of a failed row, as it is read, neither hides one nor shows one twice."""
    for number in range(50):
        ledger.record(make_row(number, "Timeout"))
    seen = []
    for row in ledger.rows(status="failed"):
        number = int(row.content, 16)
        seen.append(number)
        ledger.record(make_row(49 - number, attempts=2))
        ledger.record(make_row(1000 + number, "Timeout"))
    assert seen == list(range(50))
    assert ledger.counts() == Counts(50, 50, {"Timeout": 50})


def test_reading_may_be_given_up(ledger: Ledger, make_row: MakeRow) -> None:
    ledger.record(make_row(1))
    rows = ledger.rows()
    next(rows)
    del rows
    ledger.rows()  # and may never begin
    ledger.record(make_row(2))
    assert _numbers(ledger.rows()) == [1, 2]


def test_together_is_all_or_nothing(ledger: Ledger, make_row: MakeRow) -> None:
    def fail() -> None:
        with ledger.together():
            ledger.record(make_row(2))
            ledger.name("content", "path")
            raise OSError("of the caller")

    ledger.record(make_row(1))
    with pytest.raises(OSError, match="of the caller"):
        fail()
    assert _numbers(ledger.rows()) == [1]
    assert ledger.names("content") == ()
    with ledger.together():
        ledger.record(make_row(2))
        ledger.record(make_row(3), forget=make_row(1).id)
    assert _numbers(ledger.rows()) == [2, 3]


def test_what_json_cannot_say_is_refused_and_leaves_all_as_it_was(
    ledger: Ledger, make_row: MakeRow
) -> None:
    ledger.record(make_row(1))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            ledger.record(make_row(1, answer={"seconds": value}), forget=make_row(1).id)
    assert list(ledger.rows()) == [make_row(1)]


def test_a_row_waits_for_the_disk_and_a_name_for_the_next_row(
    ledger: Ledger, make_row: MakeRow
) -> None:
    """Else 20,000 files would take a minute to name. SQLite: 2 is FULL, 1 is NORMAL."""

    def level() -> object:
        return ledger._base.all("PRAGMA synchronous")[0][0]

    assert ledger._base.all("PRAGMA journal_mode") == [("wal",)]
    for _ in range(2):
        ledger.record(make_row(1))
        assert level() == 2
        ledger.name("content", "path")
        assert level() == 1
        with ledger.together():
            ledger.name("content", "path")
            ledger.record(make_row(1))
        assert level() == 2
        ledger.remember(STATE, "d" * 64)
        assert level() == 1


def test_settings_in_the_order_they_came(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path) as ledger:
        assert ledger.settings() == {}
        ledger.add_settings("b" * 64, {"preset": "fast", "model": "/m\udcff"}, {"--preset": "fast"})
        ledger.add_settings("a" * 64, {}, {})
        first_used = ledger.settings()["b" * 64].first_used
        ledger.add_settings("b" * 64, {"preset": "fast", "model": "/m\udcff"}, {"-p": "fast"})
    with Ledger.open(path, readonly=True) as ledger:
        known = ledger.settings()
    assert list(known) == ["b" * 64, "a" * 64]
    assert known["b" * 64].facts == {"preset": "fast", "model": "/m\udcff"}
    assert known["b" * 64].given == {"-p": "fast"}
    assert known["b" * 64].first_used == first_used


def test_names_in_the_order_they_were_seen(ledger: Ledger) -> None:
    for name in ("z.mp4", "a\udcff\n.mp4", "z.mp4", "b.mp4"):
        ledger.name("content", name)
    ledger.name("another", "z.mp4")
    assert ledger.names("content") == ("z.mp4", "a\udcff\n.mp4", "b.mp4")
    assert ledger.names("another") == ("z.mp4",)
    assert ledger.names("none") == ()
    assert ledger.aliases == 2


def test_digests_are_recalled_by_every_part_of_a_state(ledger: Ledger) -> None:
    huge = FileState(2**64 - 1, 2**64 - 1, 2**63, -1, 2**63)
    ledger.remember(STATE, "d" * 64)
    ledger.remember(huge, "e" * 64)
    assert ledger.recall(STATE) == "d" * 64
    assert ledger.recall(huge) == "e" * 64
    for field in ("device", "inode", "size_bytes", "mtime_ns", "ctime_ns"):
        assert ledger.recall(replace(STATE, **{field: 9})) is None
    ledger.remember(STATE, "f" * 64)
    assert ledger.recall(STATE) == "f" * 64


def test_it_serves_digests_as_a_memo(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"clip")
    os.utime(path, (1, 1))
    late = count(10**19, 10**10)
    first = of_file(path, ledger, clock_ns=lambda: next(late))
    again = of_file(path, ledger, clock_ns=lambda: next(late))
    assert first is not None
    assert again is not None
    assert (first.memoised, again.memoised) == (False, True)
    assert first.value == again.value


def test_a_memo_never_raises(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger.create(path)
    ledger.close()
    ledger.close()
    ledger.remember(STATE, "d" * 64)
    assert ledger.recall(STATE) is None
    with Ledger.open(path, readonly=True) as ledger:
        ledger.remember(STATE, "d" * 64)
        assert ledger.recall(STATE) is None


def test_thumbnails(ledger: Ledger) -> None:
    assert ledger.thumbnail("content") is None
    ledger.keep_thumbnail("content", b"\xff\xd8\x00")
    ledger.keep_thumbnail("content", b"\xff\xd8\x01")
    assert ledger.thumbnail("content") == b"\xff\xd8\x01"


def test_a_readonly_ledger_refuses_to_be_written(tmp_path: Path, make_row: MakeRow) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path) as ledger:
        ledger.record(make_row(1))
    before = path.read_bytes()
    with Ledger.open(path, readonly=True) as ledger:
        with pytest.raises(LedgerError, match="read-only"):
            ledger.record(make_row(2))
        assert list(ledger.rows()) == [make_row(1)]
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["ledger"]


def test_others_read_while_one_writes(tmp_path: Path, make_row: MakeRow) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path) as writer, Ledger.open(path, readonly=True) as reader:
        for number in range(5):
            writer.record(make_row(number))
            assert _numbers(reader.rows()) == list(range(number + 1))
        rows = reader.rows()
        next(rows)
        writer.record(make_row(5))
        assert _numbers(rows) == [1, 2, 3, 4]


def test_threads_share_it(ledger: Ledger, make_row: MakeRow) -> None:
    """As a feeder does, which recalls and names while the driver records."""
    faults: list[BaseException] = []

    def feed(seed: int) -> None:
        dice = random.Random(seed)
        try:
            for number in range(200):
                state = replace(STATE, inode=dice.randrange(50))
                known = ledger.recall(state)
                assert known in (None, f"{state.inode:064d}")
                ledger.remember(state, f"{state.inode:064d}")
                ledger.name(f"{number}", f"{seed}")
                ledger.stand(make_row(number).id, make_row(number).settings)
        except BaseException as error:
            faults.append(error)

    feeders = [threading.Thread(target=feed, args=(seed,)) for seed in range(3)]
    for feeder in feeders:
        feeder.start()
    for number in range(100):
        ledger.record(make_row(number))
        assert _numbers(ledger.rows()) == list(range(number + 1))
    for feeder in feeders:
        feeder.join()
    assert faults == []
    assert all(len(ledger.names(f"{number}")) == 3 for number in range(200))


def test_people_can_read_it_with_other_tools(tmp_path: Path, make_row: MakeRow) -> None:
    import sqlite3
    from contextlib import closing

    path = tmp_path / "ledger"
    with Ledger.create(path) as ledger:
        ledger.record(make_row(1, file="clips/ä\udcff.mp4", question="Où ?"))
    with closing(sqlite3.connect(path)) as base:
        file, question, answer = base.execute("SELECT file, question, answer FROM rows").fetchone()
    assert question == "Où ?"
    assert file.startswith("clips/ä".encode())
    assert answer.isascii()
    assert json.loads(answer) == make_row(1).answer
