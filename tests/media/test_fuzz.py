"""Random damage: frames or one line, the program unharmed, and a new child only after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenreduce.errors import InputError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import End, Frame, Limits, Repeat, Request

LIMIT_SECONDS = 10.0
"""For one file: what the child may take without a sign of life; these take a tenth of a second."""

MP4: list[dict[str, Any]] = [
    {},
    {"container": {"movflags": "faststart"}},
    {"container": {"movflags": "frag_keyframe+empty_moov"}},
]
ALL: list[tuple[str, dict[str, Any]]] = [
    *(("mp4", how) for how in MP4),
    ("mkv", {"options": {"bf": "3"}}),
    ("ts", {"gop": 15, "options": {"x264-params": "open-gop=1:bframes=5"}}),
    ("webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    ("avi", {"codec": "mpeg4"}),
    ("flv", {}),
    ("mpg", {"codec": "mpeg2video"}),
    ("gif", {"codec": "gif", "pixels": "rgb8", "rate": 25}),
    ("mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    ("mp4", {"codec": "libsvtav1", "options": {"preset": "12"}}),
]


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed anywhere or in the index, the end missing, a stretch overwritten, taken out
    or doubled."""
    data = bytearray(whole)
    kind = int(random.integers(6))
    begin = int(random.integers(len(data)))
    end = min(len(data), begin + int(random.integers(1, 2000)))
    if kind == 0:
        places, values = random.integers(0, len(data), 20), random.integers(0, 256, 20)
    elif kind == 1:
        index = max(data.find(b"moov"), 0)
        places = random.integers(index, min(index + 2500, len(data)), 8)
        values = random.choice([0, 1, 127, 128, 255], 8)
    else:
        places = values = np.zeros(0, int)
    for place, value in zip(places, values, strict=True):
        data[place] = value
    if kind == 2:
        del data[begin:]
    elif kind == 3:
        data[begin:end] = random.bytes(end - begin)
    elif kind == 4:
        del data[begin:end]
    elif kind == 5:
        data[begin:begin] = data[begin:end]
    return bytes(data)


def survive(decoder: Decoder, path: Path, request: Request) -> str:
    """Decodes what there is, and what became of it: "frames", "refused" or "crashed"."""
    begun, pid, refusal = time.monotonic(), decoder.pid, ""
    try:
        whole_stream(list(decoder.stream(path, request)), request)
    except InputError as error:
        refusal = str(error)
    assert time.monotonic() - begun < LIMIT_SECONDS + 5
    if not refusal:
        return "frames"
    assert len(refusal.splitlines()) == 1
    assert refusal.startswith(f"{path}: ")
    if ": the decoder " in refusal:
        return "crashed"
    spent = "of memory that decoding may take" in refusal
    assert spent or pid is None or decoder.pid == pid, "a child is ended only for cause"
    return "refused"


def whole_stream(items: list[Frame | Repeat | End], request: Request) -> None:
    """Asserts that it is one: at least a frame, ascending, an end that fits."""
    *sampled, end = items
    assert isinstance(end, End)
    times = [item.seconds for item in sampled if not isinstance(item, End)]
    assert 1 <= len(times) == len(sampled) <= end.wanted <= request.frames
    assert times == sorted(set(times))
    assert end.reached_seconds == times[-1]
    assert isinstance(sampled[0], Frame)


def requests(turn: int) -> Request:
    return Request(
        20,
        32,
        seek="exact" if turn % 2 else "keyframe",
        fps=7.0 if turn % 3 == 0 else None,
        start=0.3 if turn % 5 == 0 else 0.0,
        skip_duplicates=10.0 if turn % 4 == 0 else None,
    )


def fuzz(clips: list[Path], rounds: int, folder: Path, seed: int) -> dict[str, int]:
    outcomes = {"frames": 0, "refused": 0, "crashed": 0}
    random = np.random.default_rng(seed)
    with Decoder(Limits(stall_seconds=LIMIT_SECONDS)) as decoder:
        for turn in range(rounds):
            clip = clips[turn % len(clips)]
            path = folder / f"damaged-{turn}{clip.suffix}"
            path.write_bytes(damaged(clip.read_bytes(), random) or b"\0")
            outcomes[survive(decoder, path, requests(turn))] += 1
        # It still does what it did before.
        assert len(list(decoder.frames(clips[0], Request(5, 8)))) == 5
    return outcomes


def test_sixty_damaged_mp4s(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    clips = [write_clip(tmp_path / f"whole-{i}.mp4", **how) for i, how in enumerate(MP4)]
    outcomes = fuzz(clips, 60, tmp_path, seed=4)
    # A crash would be contained, and is news all the same. Neither all whole nor all refused:
    # otherwise the damage would test nothing.
    assert outcomes["crashed"] == 0
    assert outcomes["frames"] >= 20
    assert outcomes["refused"] >= 5


@pytest.mark.slow
def test_five_hundred_damaged_files_of_every_kind(
    tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    clips = [write_clip(tmp_path / f"whole-{i}.{end}", **how) for i, (end, how) in enumerate(ALL)]
    outcomes = fuzz(clips, 500, tmp_path, seed=5)
    assert outcomes["crashed"] == 0
    assert min(outcomes["frames"], outcomes["refused"]) >= 50
