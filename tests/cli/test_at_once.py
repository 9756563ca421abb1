"""Ctrl-C while libraries are imported, which may catch whatever is raised in them."""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType

import pytest

Part = Callable[[str], ModuleType]
AtOnce = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def at_once(part: Part) -> AtOnce:
    found: AtOnce = part("interrupts").at_once
    return found


SWALLOWS = """
import os, signal
from tokenreduce.cli.interrupts import at_once
with at_once():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    except BaseException:
        pass
print("lost")
"""


def test_a_library_that_catches_everything_cannot_lose_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_afterwards_it_is_an_exception_again(at_once: AtOnce) -> None:
    def broken() -> None:
        with at_once():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            raise ImportError

    with pytest.raises(ImportError):
        broken()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_has_a_handler_of_their_own_keeps_it(at_once: AtOnce) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
