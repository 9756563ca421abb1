"""A child that a hostile file has taken over may write what it likes: it is ended, no more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.errors import InputError, TokenReduceError
from tokenreduce.video import process
from tokenreduce.video.answers import accepted, end_of, item_of, probe_of
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.process import Died
from tokenreduce.video.types import End, Frame, Limits, Probe, Repeat, Request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["is", "seconds", "wanted", "complete", "reached_seconds", "error", "message", "width", "path"]
)


@given(header=st.dictionaries(NAMES, JSON), payload=st.binary(max_size=20))
def test_any_message_means_something_or_that_the_child_is_lost(
    header: dict[str, Any], payload: bytes
) -> None:
    for read in (lambda h: item_of(h, payload, 2), end_of, probe_of):
        with suppress(Died):
            assert isinstance(read(header), Frame | Repeat | End | Probe)
    said = ""
    try:
        accepted(header, "clip.mp4")
    except TokenReduceError as error:
        said = str(error)
    except RuntimeError:
        assert header["is"] == "bug"
    assert len(said.splitlines()) <= 1


PROBE = {
    "is": "probe", "path": "x", "seconds": 2.0, "width": 9, "height": 9, "fps": 5.0,
    "codec": "h264", "frames": 10, "rotation": 0, "first_seconds": 0.0, "last_seconds": 1.8,
    "constant_rate": True, "declared_seconds": 2.0,
}  # fmt: skip
FRAME = ({"is": "frame", "seconds": 0.5}, bytes(12))
END = ({"is": "done", "wanted": 2, "complete": True, "reached_seconds": 0.5}, b"")

ROGUE = """
import sys
from math import inf, nan
sys.path.append(sys.argv[1])
from tokenreduce.video.wire import receive, send
out = sys.stdout.buffer
send(out, {{"is": "ready"}})
for answers in {orders!r}:
    receive(sys.stdin.buffer)
    for header, payload in answers:
        send(out, header, payload)
sys.stdin.buffer.read()
"""

Message = tuple[dict[str, Any], bytes]


@pytest.fixture
def rogue(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts in the decoding child's place one that answers each order with the given messages."""

    def put(*orders: list[Message]) -> None:
        monkeypatch.setattr(process, "_START", ROGUE.format(orders=orders))

    return put


@pytest.mark.parametrize(
    "answers",
    [
        [FRAME, FRAME, FRAME, END],  # more than was asked for
        [({"is": "frame", "seconds": 0.5}, bytes(11))],
        [({"is": "frame", "seconds": 0.5}, bytes(13))],
        [({"is": "frame"}, bytes(12))],
        [({"is": "frame", "seconds": "soon"}, bytes(12))],
        [({"is": "frame", "seconds": float("nan")}, bytes(12))],
        [({"is": "repeat", "seconds": None}, b"")],
        [({"is": "repeat", "seconds": 0.5}, b""), END],  # of nothing
        [FRAME, ({"is": "done"}, b"")],
        [FRAME, ({"is": "done", "wanted": [], "complete": 1, "reached_seconds": 0}, b"")],
        [FRAME, ({"was": "done"}, b"")],
    ],
)
def test_a_child_that_sends_nonsense_is_ended(
    answers: list[Message], rogue: Callable[..., None], tiny_video: Path
) -> None:
    rogue([(PROBE, b"")], answers)
    with Decoder(Limits(stall_seconds=5)) as decoder:
        probe = decoder.probe(tiny_video)
        assert (probe.seconds, probe.frames, probe.path) == (2.0, 10, str(tiny_video))
        with pytest.raises(InputError, match="the decoder ") as caught:
            list(decoder.stream(tiny_video, Request(2, 2), probe))
        assert "\n" not in str(caught.value)
        assert decoder.pid is None


def test_what_the_child_may_say(rogue: Callable[..., None], tiny_video: Path) -> None:
    """That the stand-in is believed where it keeps to the protocol."""
    rogue([(PROBE, b"")], [FRAME, ({"is": "repeat", "seconds": 1.0}, b""), END])
    with Decoder() as decoder:
        probe = decoder.probe(tiny_video)
        frame, *rest = decoder.stream(tiny_video, Request(2, 2), probe)
        assert isinstance(frame, Frame)
        assert rest == [Repeat(1.0), End(2, True, 0.5)]


@pytest.mark.parametrize(
    "answer",
    [
        {"is": "probe"},
        {**PROBE, "seconds": "long"},
        {**PROBE, "width": None},
        {**PROBE, "seconds": float("inf")},
        {"is": "done"},
    ],
)
def test_a_probe_that_makes_no_sense(
    answer: dict[str, Any], rogue: Callable[..., None], tiny_video: Path
) -> None:
    rogue([(answer, b"")])
    with Decoder() as decoder:
        with pytest.raises(InputError, match="the decoder sent what makes no sense"):
            decoder.probe(tiny_video)
        assert decoder.pid is None
