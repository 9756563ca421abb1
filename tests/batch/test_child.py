"""A child process and its two pipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tokenreduce.batch.child import Child

Start = Callable[[str], Child]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A child whose `main` does this, with `orders` and `out`."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ExitStack() as held:

        def begin(body: str) -> Child:
            lines = "".join(f"    {line}\n" for line in body.splitlines())
            (tmp_path / "child_of_a_test.py").write_text(
                "import os, signal, sys, time\n"
                "from tokenreduce.batch.child import private_pipes\n"
                "from tokenreduce.batch.wire import receive, send\n"
                f"def main():\n    orders, out = private_pipes()\n{lines}"
            )
            child = Child("child_of_a_test", {"PYTHONPATH": str(tmp_path)})
            held.callback(child.close)
            return child

        yield begin


def test_objects_go_in_and_out_and_what_is_printed_does_not(start: Start) -> None:
    child = start("print('noise', flush=True)\nos.system('echo noise')\nsend(out, receive(orders))")
    child.send({"a": ["thing", 1]})
    assert child.receive() == {"a": ["thing", 1]}
    with pytest.raises(EOFError):
        child.receive()
    child.send("nobody hears this, and nothing breaks")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit(3)", "ended unexpectedly (exit status 3)"),
        (
            "print('before', file=sys.stderr)\nraise ValueError('too\\nmuch')",
            "ended unexpectedly (exit status 1): ValueError: too",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed, perhaps for lack of memory",
        ),
    ],
)
def test_how_it_ended_is_told_in_one_line(start: Start, body: str, said: str) -> None:
    child = start(body)
    with pytest.raises(EOFError):
        child.receive()
    assert child.ending() == said


def test_it_notices_that_nobody_listens_and_has_its_time_to_end(
    start: Start, tmp_path: Path
) -> None:
    child = start(
        "try:\n    receive(orders)\n"
        f"except EOFError:\n    open({str(tmp_path / 'ended')!r}, 'w').close()"
    )
    child.close(60.0)
    assert (tmp_path / "ended").exists()
    child.close()  # again is no error


def test_one_that_does_not_end_is_ended(start: Start) -> None:
    child = start("send(out, 1)\ntime.sleep(600)")
    assert child.receive() == 1
    child.close(0.1)
    assert "killed" in child.ending()
