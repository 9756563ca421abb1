"""Everything that is no video here: one clear line, within seconds, nothing else touched."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pytest

from tokenreduce.errors import InputError, SettingError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown
from tokenreduce.video.types import Limits, Request


def refusal(decoder: Decoder, path: str | os.PathLike[str]) -> str:
    """The one line with which a path is refused, and that it came soon and names the path."""
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        decoder.probe(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{shown(path)}: ")
    assert time.monotonic() - begun < 10
    # Refused is refused: also where the probe is left out.
    with pytest.raises(InputError, match=r"."):
        next(decoder.frames(path, Request(2, 8)))
    return message


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "empty.mp4", "is empty"),
        (b"What is a lecture?\n" * 200, "text.mp4", "not a video"),
        (b"What is a lecture?\n" * 200, "text.txt", "not a video"),
        (bytes(range(256)) * 64, "noise.mp4", "not a video"),
        (b"#!/bin/sh\nexit 1\n", "script", "not a video"),
        (b"P6\n8 8\n255\n" + bytes(192), "picture.ppm", "not a video"),
    ],
)
def test_not_a_video(
    content: bytes, name: str, says: str, tmp_path: Path, decoder: Decoder
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert says in refusal(decoder, path)


def test_what_is_no_regular_file(tmp_path: Path, decoder: Decoder) -> None:
    assert "no such file" in refusal(decoder, tmp_path / "missing.mp4")
    assert "no such file" in refusal(decoder, "")
    assert "is a directory" in refusal(decoder, tmp_path)
    assert "pipe, socket or device" in refusal(decoder, "/dev/zero")
    os.mkfifo(tmp_path / "fifo.mp4")
    assert "pipe, socket or device" in refusal(decoder, tmp_path / "fifo.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "gone.mp4")
    assert "no such file" in refusal(decoder, tmp_path / "dangling.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    assert "cannot be read" in refusal(decoder, tmp_path / "loop.mp4")
    assert "cannot be read" in refusal(decoder, tmp_path / ("x" * 300))
    assert "cannot be read" in refusal(decoder, tmp_path / "nul\0.mp4")


def test_no_permission_in_a_process_without_privileges(tiny_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "private.mp4"
    path.write_bytes(tiny_video.read_bytes())
    path.chmod(0)
    script = (
        "import os, sys\n"
        "from tokenreduce.errors import InputError\n"
        "from tokenreduce.video.decoder import Decoder\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: Decoder().probe(sys.argv[1])\n"
        "except InputError as error: print(error)\n"
    )
    # The folders of pytest are its user's alone.
    for folder in [*list(tmp_path.parents)[:2], tmp_path]:
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path}: no permission to read it; ")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("audio only", "has no video, only audio"),
        ("unknown codec", "codec"),
        ("no index", "missing or damaged"),
    ],
)
def test_broken_files(kind: str, says: str, spoilt: Callable[..., Path], decoder: Decoder) -> None:
    assert says in refusal(decoder, spoilt(kind))


def test_header_without_a_single_frame(tmp_path: Path, tiny_video: Path, decoder: Decoder) -> None:
    data = tiny_video.read_bytes()
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    path = tmp_path / "hollow.mp4"
    path.write_bytes(data[:start] + bytes(size) + data[start + size :])
    assert "no frame of it can be decoded" in refusal(decoder, path)


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A port on this machine, and who has knocked on it."""
    knocks: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    continue
                knocks.append(address)
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], knocks
        time.sleep(0.1)
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.txt"])
def test_playlists_reach_neither_network_nor_other_files(
    name: str, tmp_path: Path, tiny_video: Path, listener: tuple[int, list[Any]], decoder: Decoder
) -> None:
    port, knocks = listener
    path = tmp_path / name
    header = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n"
    for target in (f"http://127.0.0.1:{port}/a.ts", str(tiny_video), f"file://{tiny_video}"):
        path.write_text(f"{header}{target}\n#EXT-X-ENDLIST\n")
        refusal(decoder, path)
        path.write_text(f"ffconcat version 1.0\nfile '{target}'\n")
        refusal(decoder, path)
    path.write_text(f"v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n")
    refusal(decoder, path)
    assert knocks == []


def test_a_movie_that_refers_to_another_file_does_not_get_it(
    tmp_path: Path, write_clip: Callable[..., Path], decoder: Decoder
) -> None:
    """A QuickTime data reference: the header says that the pictures lie in another file."""
    raw = write_clip(tmp_path / "pictures.mov")
    data = raw.read_bytes()
    at = data.index(b"dref") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    place = b"/any/pictures.mov"
    alias = (
        b"alis" + bytes(4) + bytes(10) + bytes([0]) + bytes(27) + bytes(12)
        + bytes([12]) + b"pictures.mov".ljust(63, b"\0") + bytes(16)
        + struct.pack(">HH", 1, 1) + bytes(16)  # one folder up, one down: the same one
        + struct.pack(">HH", 2, len(place)) + place + b"\0" + struct.pack(">HH", 0xFFFF, 0)
    )  # fmt: skip
    entry = struct.pack(">I", len(alias) + 4) + alias
    body = b"dref" + bytes(4) + struct.pack(">I", 1) + entry
    grown = struct.pack(">I", len(body) + 4) + body
    changed = data[:at] + grown + data[end:]
    # The boxes around it grow with it.
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        spot = changed.index(box) - 4
        size = int.from_bytes(changed[spot : spot + 4], "big") + len(grown) - (end - at)
        changed = changed[:spot] + struct.pack(">I", size) + changed[spot + 4 :]
    start = changed.index(b"mdat") + 4
    moov = changed.index(b"moov") - 4
    assert start < moov
    path = tmp_path / "referrer.mov"
    path.write_bytes(changed[:start] + bytes(moov - start) + changed[moov:])
    with av.open(str(path), options={"enable_drefs": "1"}) as file:  # the reference would work
        assert len(list(file.decode(video=0))) == 60
    assert "no frame of it can be decoded" in refusal(decoder, path)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{}/a.mp4", "https://127.0.0.1:{}/a", "tcp://127.0.0.1:{}"]
)
def test_addresses_are_not_followed(
    address: str, listener: tuple[int, list[Any]], decoder: Decoder
) -> None:
    port, knocks = listener
    assert "only local files are read" in refusal(decoder, address.format(port))
    assert knocks == []


def test_concat_is_no_protocol_here(tiny_video: Path, decoder: Decoder) -> None:
    assert "only local files" in refusal(decoder, f"concat:{tiny_video}|{tiny_video}")


def test_a_huge_frame_is_refused_before_it_is_decoded(
    spoilt: Callable[..., Path], decoder: Decoder
) -> None:
    for side in (8_001, 12_000, 30_000):
        path = spoilt("huge frames", side=side)
        assert "allowed 64 million pixels" in refusal(decoder, path).replace("are ", "")


def test_the_limit_of_pixels_is_the_callers(tiny_video: Path) -> None:
    with Decoder(Limits(pixels=96 * 64)) as decoder:
        assert decoder.probe(tiny_video).width == 96
    with Decoder(Limits(pixels=96 * 64 - 1)) as decoder:
        assert "its frames are 96 x 64; allowed are 0.006143 million" in refusal(
            decoder, tiny_video
        )


def settled_bytes(pid: int | None) -> int:
    """What a child has mapped once it has let go of its last file, which it does after it answers:
    libav's threads have stacks of megabytes."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        status = Path(f"/proc/{pid}/status").read_text()
        now = int(status.split("VmSize:")[1].split()[0]) * 1024
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.02)
    return seen


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_limited(tmp_path: Path, tiny_video: Path) -> None:
    side = 3500
    path = tmp_path / "large.mov"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("png", rate=1, options={"compression_level": "1"})
        stream.width = stream.height = side
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame(side, side, "rgb24")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with Decoder() as decoder:
        decoder.probe(tiny_video)
        mapped = settled_bytes(decoder.pid)
        assert decoder.probe(path).width == side
    # How little a child needs depends on what its allocator reserves: the least of some limits.
    for limit in range(mapped // 2, mapped, 8 << 20):
        with suppress(RuntimeError, InputError), Decoder(Limits(memory_bytes=limit)) as decoder:
            decoder.probe(tiny_video)
            break
    with Decoder(Limits(memory_bytes=limit + (4 << 20))) as decoder:
        decoder.probe(tiny_video)
        with pytest.raises(InputError, match="memory"):
            decoder.probe(path)
        assert decoder.probe(tiny_video).width == 96


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(0, 8), "frames is 0; it can be 1 or more"),
        (Request(-1, 8), "frames is -1"),
        (Request(4, 0), "frame size is 0"),
        (Request(4, 100_000), "it can be 1 to 4096"),
        (Request(4, 8, start=-1), "start is -1 s"),
        (Request(4, 8, start=float("nan")), "start is nan s"),
        (Request(4, 8, start=1, stop=0.5), "stop is 0.5 s"),
        (Request(4, 8, decoder="ffmpeg"), "decoder is 'ffmpeg'; it can be auto, pyav, decord"),  # type: ignore[arg-type]  # no such decoder: that is the test
        (Request(4, 8, seek="near"), "seek is 'near'; it can be exact, keyframe"),  # type: ignore[arg-type]  # no such way
    ],
)
def test_impossible_requests(
    request_: Request, says: str, tiny_video: Path, decoder: Decoder
) -> None:
    with pytest.raises(SettingError) as caught:
        decoder.frames(tiny_video, request_)
    assert says in str(caught.value)


def test_a_start_after_the_end(tiny_video: Path, decoder: Decoder) -> None:
    with pytest.raises(InputError, match=r"lasts 2\.00 s, so nothing starts at 5 s"):
        decoder.frames(tiny_video, Request(4, 8, start=5))
