"""The decoding process: what it never does, and that nothing of it is left behind."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.errors import CapacityError, InputError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.process import Child
from tokenreduce.video.types import Limits, Request
from tokenreduce.video.wire import Severed, receive, send

IMPATIENT = Limits(stall_seconds=3)
MANY = Request(60, 384)  # more than the child decodes ahead and the pipe holds


def gone(pid: int) -> bool:
    """Whether the process has ended, or does within five seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # dead, and not yet waited for by whoever inherited it
        time.sleep(0.05)
    return False


def pid_of(decoder: Decoder) -> int:
    assert decoder.pid is not None
    return decoder.pid


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def test_one_child_serves_many_orders_and_ends_with_the_decoder(tiny_video: Path) -> None:
    with Decoder() as decoder:
        assert decoder.pid is None
        decoder.probe(tiny_video)
        pid = pid_of(decoder)
        for _ in range(3):
            assert len(list(decoder.frames(tiny_video, Request(3, 8)))) == 3
        with pytest.raises(InputError):
            decoder.probe(Path(__file__))
        assert decoder.pid == pid
    assert decoder.pid is None
    assert gone(pid)


@pytest.mark.parametrize("code", ["SIGSTOP", "SIGABRT", "SIGSEGV", "SIGKILL"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_child_that_hangs_or_dies_is_told_in_a_line_and_is_replaced(
    code: str, begun: bool, tiny_video: Path
) -> None:
    with Decoder(IMPATIENT) as decoder:
        probe = decoder.probe(tiny_video)
        pid = pid_of(decoder)
        stream = decoder.frames(tiny_video, MANY, probe)
        if begun:
            next(stream)
        os.kill(pid, signal.Signals[code])
        if not begun and code != "SIGSTOP":
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert len(list(stream)) == 60, "a child found dead is replaced at once"
        else:
            # What the system kills is not said to be a damaged file.
            kind = CapacityError if code == "SIGKILL" else InputError
            with within(10), pytest.raises(kind) as caught:
                list(stream)
            expected = {"SIGSTOP": "no progress for 3 s", "SIGKILL": "killed"}.get(code, code)
            assert expected in str(caught.value)
            assert "\n" not in str(caught.value)
            assert decoder.pid is None
        assert gone(pid)
        assert len(list(decoder.frames(tiny_video, Request(2, 8), probe))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_file_stays_open_after_an_order(tiny_video: Path) -> None:
    """Nor its index in memory, which takes megabytes an hour."""
    with Decoder() as decoder:
        probe = decoder.probe(tiny_video)
        assert closes(pid_of(decoder), tiny_video)
        list(decoder.frames(tiny_video, Request(3, 48), probe))
        assert closes(pid_of(decoder), tiny_video)


def closes(pid: int, path: Path) -> bool:
    """Whether the process does not hold the file open, or closes it within five seconds."""
    for _ in range(100):
        held = set()
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                held.add(os.readlink(handle))
        if str(path.resolve()) not in held:
            return True
        time.sleep(0.05)
    return False


def test_a_child_that_hangs_while_probing(tiny_video: Path) -> None:
    with Decoder(IMPATIENT) as decoder:
        decoder.probe(tiny_video)
        pid = pid_of(decoder)
        os.kill(pid, signal.SIGSTOP)
        with within(10), pytest.raises(InputError, match="no progress"):
            decoder.probe(tiny_video)
        assert gone(pid)


def test_closing_the_stream_early_ends_the_child(tiny_video: Path) -> None:
    with Decoder() as decoder:
        stream = decoder.frames(tiny_video, MANY)
        next(stream)
        pid = pid_of(decoder)
        stream.close()
        assert decoder.pid is None
        assert gone(pid)
        # The same for one that is merely forgotten.
        for _frame in decoder.frames(tiny_video, MANY):
            pid = pid_of(decoder)
            break
        gc.collect()
        assert gone(pid)


def test_a_new_order_ends_an_unfinished_stream(tiny_video: Path) -> None:
    with Decoder() as decoder:
        old = decoder.frames(tiny_video, MANY)
        next(old)
        first = pid_of(decoder)
        assert decoder.probe(tiny_video).frames == 60
        assert gone(first)
        with pytest.raises(InputError):
            list(old)
        assert len(list(decoder.frames(tiny_video, Request(2, 8)))) == 2


def test_the_child_waits_for_its_reader(tiny_video: Path) -> None:
    """Back-pressure: a reader that pauses does not make the child hoard, nor count as a stall."""
    with Decoder(IMPATIENT) as decoder:
        stream = decoder.frames(tiny_video, Request(60, 1024))  # 3 MB a frame, 189 MB in all
        next(stream)
        status = Path(f"/proc/{decoder.pid}/status")
        time.sleep(2)
        if status.exists():
            resident = int(status.read_text().split("VmRSS:")[1].split()[0]) * 1024
            assert resident < 200 << 20
        assert len(list(stream)) == 59


WATCHED = """
import sys
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Request
with Decoder() as decoder:
    for frame in decoder.frames(sys.argv[1], Request(60, 384)):
        print(decoder.pid, flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("code", ["SIGINT", "SIGKILL", "SIGTERM"])
def test_no_child_outlives_its_parent(code: str, tiny_video: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", WATCHED, str(tiny_video)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        pid = int(parent.stdout.readline())
        if code == "SIGINT":  # a terminal sends it to all
            os.killpg(parent.pid, signal.SIGINT)
        else:
            os.kill(parent.pid, signal.Signals[code])
        error = parent.stderr.read()
        assert parent.wait(10) != 0
        assert gone(pid)
    if code == "SIGINT":
        assert error.rstrip().endswith("KeyboardInterrupt")


def printed(script: str) -> str:
    command = [sys.executable, "-P", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_child_has_neither_torch_nor_models(tiny_video: Path) -> None:
    script = (
        "import sys, tokenreduce.video.child, tokenreduce.video.orders\n"
        "print(*sys.modules, sep='\\n')"
    )
    loaded = set(printed(script).split())
    assert {"av", "numpy", "PIL.Image"} <= loaded
    assert not {"torch", "transformers", "decord", "tokenreduce.models"} & loaded
    with Decoder() as decoder:
        list(decoder.frames(tiny_video, Request(2, 8)))
        maps = Path(f"/proc/{decoder.pid}/maps")
        if maps.exists():
            assert "libavcodec" in maps.read_text()
            assert "libtorch" not in maps.read_text()


def test_the_parent_needs_neither_torch_nor_a_decoder() -> None:
    script = "import sys, tokenreduce.video.decoder\nprint(*sys.modules, sep='\\n')"
    assert not {"torch", "av", "decord", "PIL"} & set(printed(script).split())


def test_a_hostile_working_directory_cannot_shadow_modules(
    tmp_path: Path, tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("av", "numpy", "PIL", "json", "tokenreduce", "sitecustomize", "resource"):
        (tmp_path / f"{name}.py").write_text("open('shadowed', 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    with Decoder() as decoder:
        assert decoder.probe(tiny_video).frames == 60
    assert not (tmp_path / "shadowed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_childs_limits_are_the_systems(tiny_video: Path) -> None:
    with Decoder(Limits(memory_bytes=3 << 30)) as decoder:
        decoder.probe(tiny_video)
        limits = Path(f"/proc/{decoder.pid}/limits").read_text()
        assert f"Max address space         {3 << 30} " in limits
        assert "Max core file size        0 " in limits


def test_a_child_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)the decoding process ended .*Error"):
        Child(Limits(memory_bytes=60 << 20))


@given(
    header=st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
    payload=st.binary(max_size=100),
)
def test_messages_arrive_as_sent(header: dict[str, object], payload: bytes) -> None:
    pipe = io.BytesIO()
    send(pipe, header, payload)
    send(pipe, {}, b"")
    pipe.seek(0)
    assert receive(pipe, 100) == (header, payload)
    assert receive(pipe) == ({}, b"")
    with pytest.raises(Severed):
        receive(pipe)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\x02\0\0\0\0{",
        b"\0\0\0\x02\0\0\0\0[]",
        b"\0\0\0\x02\0\0\0\0{{",
        b"\0\0\0\x02\0\0\0\x09{}123456789",  # a payload larger than is due
        b"\xff\xff\xff\xff\0\0\0\0",
    ],
)
def test_broken_messages_are_no_messages(data: bytes) -> None:
    with pytest.raises(Severed):
        receive(io.BytesIO(data), max_payload_bytes=8)
