"""Pictures that no other refers to: told from the bytes, and never given to the decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tokenreduce.video.h264 import needless, prefix_bytes
from tokenreduce.video.source import Source
from tokenreduce.video.times import Span
from tokenreduce.video.types import Limits, Request
from tokenreduce.video.with_pyav import THREADS, decode

SPARE, KEPT, DELIMITER = b"\x01\x9a", b"\x41\x9a", b"\x09\xf0"
PARAMETERS, MESSAGE = b"\x67\x64", b"\x06\x05"


def counted(*units: bytes, prefix: int = 4) -> bytes:
    return b"".join(len(unit).to_bytes(prefix, "big") + unit for unit in units)


def marked(*units: bytes) -> bytes:
    return b"".join(b"\0\0\0\1" + unit for unit in units)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ((SPARE,), True),
        ((DELIMITER, SPARE, SPARE), True),
        ((SPARE, KEPT), False),
        ((PARAMETERS, SPARE), False),
        ((MESSAGE, SPARE), False),
        ((DELIMITER,), False),  # half of a picture
        ((b"\x81\x9a",), False),  # the forbidden bit
        ((), False),
    ],
)
def test_only_what_is_plainly_of_no_use(units: tuple[bytes, ...], expected: bool) -> None:
    assert needless(marked(*units), 0) is expected
    for prefix in (1, 2, 3, 4):
        assert needless(counted(*units, prefix=prefix), prefix) is expected


@pytest.mark.parametrize("damaged", [b"\0\0\0\1", b"\7\0\0\1\1", b"\1\x9a"])
def test_damaged_start_codes(damaged: bytes) -> None:
    assert not needless(damaged, 0)


@pytest.mark.parametrize("damaged", [b"\0\0\0\3\1\1", b"\0\0\0\0", b"\0\0", counted(SPARE) + b"\0"])
def test_damaged_lengths(damaged: bytes) -> None:
    assert not needless(damaged, 4)


@pytest.mark.parametrize(
    ("extradata", "prefix"),
    [(None, 0), (b"", 0), (marked(PARAMETERS), 0), (b"\1\x64\0\x1f\xff\xe1\0", 4), (b"\1\x64", 0)],
)
def test_what_the_box_says(extradata: bytes | None, prefix: int) -> None:
    assert prefix_bytes(extradata) == prefix


def pictures(packets: list[Any], codec: Any) -> list[tuple[int, bytes]]:
    found = [frame for packet in [*packets, None] for frame in codec.decode(packet)]
    return [(frame.pts, frame.to_ndarray().tobytes()) for frame in found]


@pytest.mark.parametrize("name", ["b.mkv", "gop250.mp4", "b.ts", "open-gop.ts", "no-b.mkv"])
def test_it_is_what_the_decoder_would_skip(name: str, clip: Callable[[str], Path]) -> None:
    """The other pictures are the same bytes whether those are skipped or never given."""
    given, spared = [], []
    for left_out in (False, True):
        with av.open(str(clip(name))) as file:
            stream = file.streams.video[0]
            codec: Any = stream.codec_context
            prefix = prefix_bytes(codec.extradata)
            packets = [packet for packet in file.demux(stream) if packet.size]
            rest = [packet for packet in packets if not needless(bytes(packet), prefix)]
            codec.skip_frame = "DEFAULT" if left_out else "NONREF"
            given.append(pictures(rest if left_out else packets, codec))
            spared.append(len(packets) - len(rest))
    assert given[0] == given[1]
    assert len(given[1]) == 60 - spared[1]
    assert (spared[0] > 15) is (name != "no-b.mkv")


@pytest.mark.parametrize("name", ["gop250.mp4", "b.ts"])
def test_the_decoder_is_not_given_what_it_would_skip(
    name: str, clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(str(clip(name)), Limits().pixels)
    prefix = prefix_bytes(source.codec.extradata)
    times = sorted(packet.pts for packet in source.packets())
    source.seek(None)
    span = Span(source.tick, times[0], times[-1], None, 1)
    given: list[Any] = []
    whole = source.decode

    def watched(packet: Any) -> list[Any]:
        given.append(packet)
        return whole(packet)

    monkeypatch.setattr(source, "decode", watched)
    samples = list(decode(source, Request(3, 48), span, lambda: None))
    shown = {times[i] for i in np.linspace(0, len(times) - 1, 3).astype(int)}
    assert [sample.due for sample in samples] == [span.seconds(pts) for pts in sorted(shown)]
    assert source.codec.thread_count == THREADS
    # The wanted one itself may be of no use to others, and so may those that go in until it is out.
    useless = [times.index(p.pts) for p in given if p is not None and needless(bytes(p), prefix)]
    targets = [times.index(pts) for pts in shown]
    assert [i for i in useless if not any(at <= i < at + 6 for at in targets)] == []
