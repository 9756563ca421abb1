"""Ledgers that are not ours, damaged, of other versions, locked, or on a disk that is full or shut:
one line each, and never a row that was not recorded."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tokenreduce.batch import ledger_schema
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.rows import Row
from tokenreduce.errors import TokenReduceError

MakeRow = Callable[..., Row]
ROWS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl.ledger"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow) -> Path:
    path = tmp_path_factory.mktemp("sound") / "ledger"
    with Ledger.create(path) as ledger:
        ledger.add_settings(make_row(0).settings, {"preset": "fast"}, {})
        for number in range(ROWS):
            answer = {"answer": f"{number} " * 300}
            ledger.record(make_row(number, answer=answer))
            ledger.name(make_row(number).content, make_row(number).file)
    return path


def _refusal(act: Callable[[], object]) -> str:
    with pytest.raises(LedgerError) as caught:
        act()
    assert isinstance(caught.value, TokenReduceError)
    line = str(caught.value)
    assert line.isprintable(), "one line, safe to show"
    return line


def _run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("content", [b"", b"x", b"just text\n" * 100, bytes(5000)])
@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(
    path: Path, content: bytes, readonly: bool
) -> None:
    path.write_bytes(content)
    assert "no ledger of tokenreduce" in _refusal(lambda: Ledger.open(path, readonly=readonly))
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_another_program_s_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE rows (id)")
    assert "no ledger of tokenreduce" in _refusal(lambda: Ledger.open(path))


def test_nothing_or_a_folder_in_its_place(path: Path) -> None:
    assert "no such ledger" in _refusal(lambda: Ledger.open(path))
    assert not path.exists()
    path.mkdir()
    assert "is no file" in _refusal(lambda: Ledger.open(path))
    assert "there is a ledger already" in _refusal(lambda: Ledger.create(path))
    (path / "a\n\x1b[31mb").write_text("text")
    assert r"a\n\x1b[31mb" in _refusal(lambda: Ledger.open(path / "a\n\x1b[31mb"))


def test_a_new_ledger_replaces_nothing(path: Path, make_row: MakeRow) -> None:
    with Ledger.create(path) as ledger:
        ledger.record(make_row(1))
        assert "there is a ledger already" in _refusal(lambda: Ledger.create(path))
        assert list(ledger.rows()) == [make_row(1)]
    assert os.listdir(path.parent) == [path.name]


def test_a_missing_folder(path: Path) -> None:
    line = _refusal(lambda: Ledger.create(path.parent / "none" / "ledger"))
    assert "does not exist" in line
    assert "none" in line


def test_a_log_without_its_ledger_is_not_taken_for_the_new_one_s(
    path: Path, make_row: MakeRow
) -> None:
    """As after someone deleted the ledger of a batch that was killed."""
    log = Path(f"{path}-wal")
    with Ledger.create(path) as ledger:
        ledger.record(make_row(1))
        kept = log.read_bytes()
    path.unlink()
    log.write_bytes(kept)
    assert "is left of a ledger that is gone" in _refusal(lambda: Ledger.create(path))
    assert os.listdir(path.parent) == [log.name]


def _read_all(path: Path, make_row: MakeRow, *, readonly: bool) -> list[Row]:
    """All that can be read of it, by every call."""
    with Ledger.open(path, readonly=readonly) as ledger:
        rows = list(ledger.rows())
        ledger.counts()
        ledger.settings()
        for number in range(ROWS):
            one = make_row(number)
            ledger.stand(one.id, one.settings)
            found = ledger.find(one.id, one.settings)
            assert found is None or found in rows
            ledger.names(one.content)
        if not readonly:
            ledger.record(make_row(1000))
    return rows


@pytest.mark.parametrize("readonly", [True, False])
def test_a_ledger_that_was_cut_off_is_noticed(
    sound: Path, path: Path, make_row: MakeRow, readonly: bool
) -> None:
    data = sound.read_bytes()
    dice = random.Random(readonly)
    cuts = {1, 99, 100, 4095, 4096, len(data) - 4096, len(data) - 1}
    for cut in sorted(cuts | {dice.randrange(len(data)) for _ in range(12)}):
        path.write_bytes(data[:cut])
        line = _refusal(lambda: _read_all(path, make_row, readonly=readonly))
        assert "damaged" in line or "no ledger" in line


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_are_noticed_or_harm_no_row(
    sound: Path, path: Path, make_row: MakeRow, seed: int
) -> None:
    """A row that comes back is one that was recorded. What lies in free space is nobody's."""
    dice = random.Random(seed)
    data = bytearray(sound.read_bytes())
    at, size = dice.randrange(len(data)), dice.choice([1, 1, 8, 100, 5000])
    data[at : at + size] = dice.randbytes(len(data[at : at + size]))
    path.write_bytes(data)
    recorded = [make_row(number, answer={"answer": f"{number} " * 300}) for number in range(ROWS)]
    rows, line = [], ""
    try:
        rows = _read_all(path, make_row, readonly=seed % 2 == 0)
    except LedgerError as error:
        line = str(error)
    assert [row for row in rows if row not in recorded] == []
    assert line.isprintable()
    assert line == "" or line.startswith(f"{path}: is ")


def test_a_flipped_bit_in_an_answer_is_noticed(sound: Path, path: Path) -> None:
    data = sound.read_bytes()
    at = data.index(b"17 17 17")
    path.write_bytes(data[:at] + b"57" + data[at + 2 :])
    with Ledger.open(path) as ledger:
        line = _refusal(lambda: list(ledger.rows()))
    assert "is damaged (a row is not what was recorded)" in line


def test_a_damaged_index_is_noticed_before_anything_is_written(
    sound: Path, path: Path, make_row: MakeRow
) -> None:
    """No row is wrong yet; to write on would make it so."""
    shutil.copy(sound, path)
    with closing(sqlite3.connect(path)) as base:
        (size,) = base.execute("PRAGMA page_size").fetchone()
        select = "SELECT rootpage FROM sqlite_master WHERE name = 'rows_by_key'"
        (page,) = base.execute(select).fetchone()
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = random.Random(1).randbytes(size)
    path.write_bytes(data)
    assert "is damaged" in _refusal(lambda: Ledger.open(path))
    with Ledger.open(path, readonly=True) as ledger:
        assert sum(1 for _ in ledger.rows()) == ROWS
        assert "is damaged" in _refusal(lambda: ledger.answered(make_row(1).key))


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_rubbish_beside_it_is_survived(sound: Path, path: Path, ending: str) -> None:
    shutil.copy(sound, path)
    Path(f"{path}{ending}").write_bytes(b"rubbish" * 5000)
    with Ledger.open(path) as ledger:
        assert sum(1 for _ in ledger.rows()) == ROWS


def test_a_newer_version_is_refused(sound: Path, path: Path) -> None:
    shutil.copy(sound, path)
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"PRAGMA user_version = {ledger_schema.VERSION + 1}")
    before = path.read_bytes()
    for readonly in (True, False):
        line = _refusal(lambda: Ledger.open(path, readonly=readonly))  # noqa: B023
        assert "newer tokenreduce" in line
        assert f"(its format is {ledger_schema.VERSION + 1}" in line
    assert path.read_bytes() == before


@pytest.fixture
def older(sound: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two versions back, which had no thumbnails and another name for a column."""
    shutil.copy(sound, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("DROP TABLE thumbnails")
        base.execute("ALTER TABLE rows RENAME COLUMN worker TO device")
        base.execute("PRAGMA user_version = -1")
    (thumbnails,) = [one for one in ledger_schema.TABLES if "TABLE thumbnails" in one]
    rename = "ALTER TABLE rows RENAME COLUMN device TO worker"
    monkeypatch.setattr(ledger_schema, "STEPS", {-1: [thumbnails], 0: [rename]})
    return path


def test_an_older_version_is_brought_up(sound: Path, older: Path) -> None:
    with Ledger.open(older) as ledger:
        ledger.keep_thumbnail("content", b"jpeg")
    with Ledger.open(older, readonly=True) as ledger, Ledger.open(sound, readonly=True) as same:
        assert list(ledger.rows()) == list(same.rows())
        assert ledger.settings() == same.settings()
        assert ledger.thumbnail("content") == b"jpeg"


def test_an_older_version_that_may_only_be_read(older: Path) -> None:
    before = older.read_bytes()
    line = _refusal(lambda: Ledger.open(older, readonly=True))
    assert "older tokenreduce" in line
    assert "run its batch again" in line
    assert older.read_bytes() == before


def test_a_conversion_that_fails_leaves_the_old_one(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ledger_schema.STEPS
    monkeypatch.setattr(ledger_schema, "STEPS", {**steps, 0: ["ALTER TABLE none RENAME TO any"]})
    _refusal(lambda: Ledger.open(older))
    with closing(sqlite3.connect(older)) as base:
        assert base.execute("PRAGMA user_version").fetchone() == (-1,)
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master")]
    assert "thumbnails" not in tables
    monkeypatch.setattr(ledger_schema, "STEPS", steps)
    with Ledger.open(older) as ledger:
        assert sum(1 for _ in ledger.rows()) == ROWS


def test_a_version_of_which_nothing_is_known(sound: Path, path: Path) -> None:
    shutil.copy(sound, path)
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA user_version = -7")
    assert "is damaged (it says that its format is -7)" in _refusal(lambda: Ledger.open(path))


def test_another_program_keeps_it_locked(path: Path, make_row: MakeRow) -> None:
    with Ledger.create(path) as ledger:
        ledger.record(make_row(1))
    with (
        Ledger.open(path, busy_seconds=0.1) as ledger,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        line = _refusal(lambda: ledger.record(make_row(2)))
        assert "another program keeps it locked" in line
        assert "every row recorded so far is safe" in line
        assert list(ledger.rows()) == [make_row(1)]
        other.execute("ROLLBACK")
        ledger.record(make_row(2))
        assert list(ledger.rows()) == [make_row(1), make_row(2)]


_FILL = """
import resource, sys
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.rows import Row
ledger = Ledger.create(sys.argv[1])
if int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
def row(number):
    return Row(str(number), "k", "s", "c", "f", "q", "answered", 1, "", "", "h", "w",
               {"answer": "x" * 3000})
done = 0
for number in range(5000):
    try:
        ledger.record(row(number))
    except LedgerError as error:
        print(error)
        break
    done += 1
for number in range(done, done + 3):  # and it stays so, one line each
    try:
        ledger.record(row(number))
        done += 1
    except LedgerError:
        pass
if int(sys.argv[2]):
    assert len(list(ledger.rows())) == done
print(done)
ledger.close()
"""


def _after_the_disk_was_full(path: Path, result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stderr) == (0, "")
    line, done = result.stdout.splitlines()
    assert line.startswith(str(path))
    assert "every row recorded so far is safe" in line
    assert 10 < int(done) < 5000
    with Ledger.open(path, readonly=True) as ledger:
        assert [row.id for row in ledger.rows()] == [str(number) for number in range(int(done))]
    return line


def test_no_file_may_grow_further(path: Path) -> None:
    line = _after_the_disk_was_full(path, _run(_FILL, path, 1_000_000))
    assert "space and quota" in line


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(tiny_disk: Path, make_row: MakeRow) -> None:
    path = tiny_disk / "ledger"
    line = _after_the_disk_was_full(path, _run(_FILL, path, 0))
    assert "the disk is full" in line
    _fill(tiny_disk / "rest")
    new = tiny_disk / "other.ledger"
    assert "free some space" in _refusal(lambda: Ledger.create(new))
    assert {"ledger", "rest"} == set(os.listdir(tiny_disk)) - _beside(path)


def test_on_a_disk_almost_full_a_new_ledger_is_whole_or_not_there(tiny_disk: Path) -> None:
    rest, made, refused = tiny_disk / "rest", 0, list[str]()
    for room in range(0, 300_000, 8192):
        _fill(rest)
        os.truncate(rest, rest.stat().st_size - room)
        path = tiny_disk / f"{room}.ledger"
        try:
            Ledger.create(path).close()
        except LedgerError as error:
            refused.append(str(error))
            assert os.listdir(tiny_disk) == ["rest"]
        else:
            made += 1
            rest.unlink()
            with Ledger.open(path) as ledger:
                assert ledger.counts().rows == 0
            path.unlink()
    assert made
    assert refused
    assert all("free some space" in line or "the space" in line for line in refused)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _beside(path: Path) -> set[str]:
    return {one for one in os.listdir(path.parent) if one.startswith(path.name + "-")}


_AS_NOBODY = """
import os, sys
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.lock import Lock
def read():
    with Ledger.open(path, readonly=True) as ledger:
        print(sum(1 for _ in ledger.rows()), sum(1 for _ in ledger.rows(status="failed")))
def write():
    with Ledger.open(path) as ledger:
        ledger.add_settings("digest", {}, {})
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
path = sys.argv[1]
for act in (read, lambda: Ledger.create(path + "2"), lambda: Lock.take(path), write):
    try:
        act()
    except LedgerError as error:
        print(error)
"""


@pytest.fixture
def shut() -> Iterator[Path]:
    """A folder that others than root may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        os.chmod(folder, 0o755)


def _as_nobody(path: Path) -> list[str]:
    """What is said where the folder may not be written; nothing in it changes."""
    os.chmod(path.parent, 0o555)
    before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    result = _run(_AS_NOBODY, path)
    assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == before
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such modes there")
@pytest.mark.parametrize("mode", [0o444, 0o666])
def test_a_folder_that_may_not_be_written(sound: Path, shut: Path, mode: int) -> None:
    path = shut / "ledger"
    shutil.copy(sound, path)
    path.chmod(mode)
    counts, create, lock, write = _as_nobody(path)
    assert counts == f"{ROWS} 0"
    assert "may not use it or write in its folder" in create
    assert "may not use it or write in its folder" in lock
    assert "read-only" in write or "cannot be read or written" in write


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such modes there")
def test_a_killed_batch_in_a_folder_that_may_not_be_written(
    shut: Path, path: Path, make_row: MakeRow
) -> None:
    """Its log is needed, and SQLite cannot read that there: better no rows than fewer."""
    with Ledger.create(path) as ledger:
        ledger.record(make_row(1))
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", shut / f"ledger{ending}")
    read, *_ = _as_nobody(shut / "ledger")
    assert "its batch was killed" in read
    assert "copy both to another folder" in read


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_a_ledger_that_may_not_be_read(sound: Path, shut: Path) -> None:
    path = shut / "ledger"
    shutil.copy(sound, path)
    path.chmod(0o600 if os.geteuid() == 0 else 0o000)
    os.chmod(shut, 0o755)
    read, *_ = _run(_AS_NOBODY, path).stdout.splitlines()
    assert read.startswith(f"{path}: this user may not use it")


_CREATE = """
import sys
from tokenreduce.batch.ledger import Ledger
from tokenreduce.batch.ledger_faults import LedgerError
sys.stdin.readline()
try:
    Ledger.create(sys.argv[1])
    print("made")
except LedgerError as error:
    print(error)
"""


def test_of_two_that_make_it_at_once_one_does(path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", _CREATE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    said = sorted(maker.communicate(timeout=60)[0] for maker in makers)
    assert said.count("made\n") == 1
    assert all("there is a ledger already" in one for one in said if one != "made\n")
    assert os.listdir(path.parent) == [path.name]


_READ = """
import sys
from tokenreduce.batch.ledger import Ledger
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
with Ledger.open(sys.argv[1], readonly=True) as ledger:
    first = most = 0
    for count, row in enumerate(ledger.rows(), 1):
        if count == 1000:
            first = resident()
        if count % 5000 == 0:
            most = max(most, resident())
print(count, most - first)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="tells no memory")
def test_memory_is_flat_over_a_hundred_thousand_rows(path: Path, make_row: MakeRow) -> None:
    one = make_row(1, answer={"answer": "x" * 300})
    with Ledger.create(path) as ledger, ledger.together():
        from dataclasses import replace

        for number in range(100_000):
            ledger.record(replace(one, id=str(number)))
    assert path.stat().st_size > 60_000_000
    result = _run(_READ, path)
    count, grown_kib = map(int, result.stdout.split())
    assert count == 100_000
    assert grown_kib < 4096
