"""One process at a time works on an output, and whoever comes second is told which does."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tokenreduce.batch import lock as lock_module
from tokenreduce.batch.ledger_faults import LedgerError
from tokenreduce.batch.lock import Lock, lock_of, require_free

_HOLD = """
import sys
from tokenreduce.batch.lock import Lock
with Lock.take(sys.argv[1]):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture
def holder(output: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_holds_it(output: Path, holder: subprocess.Popen[str]) -> None:
    said = json.loads(lock_of(output).read_text())
    assert said["pid"] == holder.pid
    for act in (lambda: Lock.take(output), lambda: require_free(output)):
        with pytest.raises(LedgerError) as caught:
            act()
        line = str(caught.value)
        assert line.startswith(f"{output}: process {holder.pid} on {os.uname().nodename} (since 20")
        assert said["since"] in line
        assert said["command"] in line
        assert "wait until it is done, or stop it" in line
    assert json.loads(lock_of(output).read_text()) == said


def test_it_is_free_once_its_holder_ends(output: Path, holder: subprocess.Popen[str]) -> None:
    holder.communicate("")
    assert not lock_of(output).exists()
    with Lock.take(output):
        assert json.loads(lock_of(output).read_text())["pid"] == os.getpid()


def test_a_killed_holder_holds_nothing(output: Path, holder: subprocess.Popen[str]) -> None:
    """Its text stays and blocks nobody."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads(lock_of(output).read_text())["pid"] == holder.pid
    require_free(output)
    with Lock.take(output):
        assert json.loads(lock_of(output).read_text())["pid"] == os.getpid()
    assert not lock_of(output).exists()


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"[]", b'{"pid": "x"}', b'{"pid": 1}', b"x" * 10_000]
)
def test_a_text_that_says_nothing(output: Path, text: bytes) -> None:
    lock_of(output).write_bytes(text)
    with Lock.take(output):
        lock_of(output).write_bytes(text)
        with pytest.raises(LedgerError, match=r"answers.jsonl: another process works on it"):
            Lock.take(output)


def test_a_hostile_text_is_one_safe_line(output: Path) -> None:
    with Lock.take(output):
        said = {"pid": 1, "host": "\x1b[31m\n", "since": "\u202e", "command": "a\udcff\ud800b\r"}
        lock_of(output).write_text(json.dumps(said))
        with pytest.raises(LedgerError) as caught:
            Lock.take(output)
    assert str(caught.value).isprintable()


def test_one_process_cannot_take_it_twice(output: Path) -> None:
    with Lock.take(output) as held:
        with pytest.raises(LedgerError, match=f"process {os.getpid()} "):
            Lock.take(output)
        held.close()
        held.close()
        Lock.take(output).close()


def test_asking_for_a_lock_makes_and_blocks_nothing(output: Path) -> None:
    require_free(output)
    assert os.listdir(output.parent) == []
    lock_of(output).touch()
    require_free(output)
    with Lock.take(output):
        pass


def test_of_many_that_take_it_in_turn_no_two_hold_it(output: Path) -> None:
    """The file is deleted and made again all the time; whoever opened the old one holds nothing."""
    holding: list[int] = []
    most = 0
    done = []

    def work(number: int) -> None:
        nonlocal most
        for _ in range(30):
            with ExitStack() as stack:
                try:
                    stack.enter_context(Lock.take(output))
                except LedgerError:
                    continue
                holding.append(number)
                time.sleep(0.0005)
                most = max(most, len(holding))
                holding.remove(number)
                done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(done) > 10


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(
    output: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock_module, "_system_lock", refuse)
    with pytest.raises(LedgerError, match="file system has no locks") as caught:
        Lock.take(output)
    assert "choose an output on a local disk" in str(caught.value)
    require_free(output)


def test_another_fault_of_the_system(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock_module, "_system_lock", refuse)
    with pytest.raises(LedgerError, match="Input/output error"):
        Lock.take(output)


def test_a_missing_folder_and_a_folder_in_its_place(output: Path) -> None:
    with pytest.raises(LedgerError, match=r"the folder .*none does not exist"):
        Lock.take(output.parent / "none" / "answers.jsonl")
    lock_of(output).mkdir()
    with pytest.raises(LedgerError, match="cannot be used"):
        Lock.take(output)


_HOLD_WITH_CHILD = """
import os, subprocess, sys
from tokenreduce.batch.lock import Lock
lock = Lock.take(sys.argv[1])
subprocess.Popen([sys.executable, "-c", "input()"], close_fds=False, stdout=subprocess.DEVNULL)
print("taken", flush=True)
os._exit(9)
"""


def test_no_child_inherits_it(output: Path) -> None:
    """A decoding child that outlives a killed batch would keep it from being resumed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD_WITH_CHILD, str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.wait(timeout=60) == 9
    assert lock_of(output).exists()
    Lock.take(output).close()
    holder.communicate(b"\n")  # the child reads it and ends
