"""Small generated videos, whole and broken, for whoever needs one."""

from __future__ import annotations

import os
import signal
import struct
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A loaded machine is no reason to fail: deadlines measure the neighbours.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and what is ignored is inherited: then
    no command that a test starts could be interrupted."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run side by side (pytest -n), each process and what it starts has one thread:
    several of them on the same cores take half as long again."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ.setdefault("OMP_NUM_THREADS", "1")


REQUIRE_GPU = "TOKENREDUCE_REQUIRE_GPU"
"""With 1 in it a GPU is promised: no test marked gpu may be skipped."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    promised = os.environ.get(REQUIRE_GPU, "0") not in ("", "0")
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if promised and skipped and item.get_closest_marker("gpu"):
        report.outcome = "failed"
        why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{REQUIRE_GPU} is set, so this may not be skipped: {why}"
    return report


WriteClip = Callable[..., Path]
Spoil = Callable[..., Path]


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) RGB: a gradient that moves, no two of 250 alike even after compression."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = (2 * x + 3 * index) % 256
    image[..., 1] = (3 * y + index) % 256
    image[..., 2] = (17 * index) % 256
    return image


def _write(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 60,
    size: tuple[int, int] = (96, 64),
    rate: int | Fraction = 30,
    gop: int = 12,
    pixels: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    format: str | None = None,
    pts: Sequence[int] | None = None,
    tick: Fraction | None = None,
) -> Path:
    """Encodes `frames` pictures, or one for each of `pts` in units of `tick` seconds."""
    with av.open(str(path), "w", format=format, container_options=dict(container or {})) as file:
        stream: Any = file.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = gop
        unit = tick or 1 / Fraction(rate)
        if tick is not None:
            stream.codec_context.time_base = tick
        for index, time in enumerate(range(frames) if pts is None else pts):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = time, unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write_clip() -> WriteClip:
    """Encodes a clip; its keywords are those of `_write`."""
    return _write


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 96 x 64 H.264 at 30 frames a second, key frames every 12."""
    return _write(tmp_path_factory.mktemp("clips") / "tiny.mp4")


def _audio_only(path: Path, _: Path) -> None:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(4096))
        frame.sample_rate, frame.pts = 44100, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def _unknown_codec(path: Path, clip: Path) -> None:
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))


def _no_index(path: Path, clip: Path) -> None:
    path.write_bytes(clip.read_bytes()[:-1500])  # the index lies at the end


def _truncated(path: Path, _: Path) -> None:
    """The index lies at the front and speaks of 60 frames; the last third of the file is gone."""
    data = _write(path, container={"movflags": "faststart"}).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _huge_frames(path: Path, _: Path, side: int = 12_000) -> None:
    """A PNG in a QuickTime file that claims side x side pixels and holds next to none."""
    with av.open(str(path), "w", format="mov") as file:
        stream: Any = file.add_stream("png", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame(64, 64, "rgb24")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        for index in range(2):
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"IHDR", at + 1)) > 0:
        data[at + 4 : at + 12] = struct.pack(">II", side, side)
        data[at + 17 : at + 21] = struct.pack(">I", zlib.crc32(data[at : at + 17]))
    entry = data.index(b"stsd") + 12 + 4  # the sample entry's own name
    data[entry + 4 + 24 : entry + 4 + 28] = struct.pack(">HH", side, side)
    path.write_bytes(data)


_SPOILT: Mapping[str, Callable[..., None]] = {
    "audio only": _audio_only,
    "unknown codec": _unknown_codec,
    "no index": _no_index,
    "truncated": _truncated,
    "huge frames": _huge_frames,
}


@pytest.fixture
def spoilt(tiny_video: Path, tmp_path: Path) -> Spoil:
    """Writes a broken mp4 of the kind that is named; keywords are those of its builder."""

    def write(kind: str, **options: Any) -> Path:
        path = tmp_path / "spoilt.mp4"
        _SPOILT[kind](path, tiny_video, **options)
        return path

    return write


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


@pytest.fixture(scope="session")
def largest_tensor() -> type[Largest]:
    return Largest
