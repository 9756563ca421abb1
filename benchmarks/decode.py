"""What frames cost: PyAV and decord, exact and by key frames, on a long generated video.

    python -m benchmarks.decode --minutes 10 --save
    python -m benchmarks.decode --minutes 2 --frames 16               # a quick look

H.264, 1280 x 720, 30 frames a second, B-frames, made by repeating the encoded packets of one group
of pictures with shifted times, once with key frames far apart and once close together. Each
measurement is a fresh process that goes through the tool's own decoding child, start included; the
bare loop is what one would write with PyAV alone, in one process: seek, decode up to the frame,
convert, resize. As groups repeat, every frame's true picture is known: `right` counts the frames
that are the ones they should be. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from benchmarks.long_files import repeat
from benchmarks.record import rounds, run_process, spreads, write
from tokenreduce.errors import TokenReduceError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import DecoderName, Frame, Limits, Request, Seek

RATE = 30
WIDTH, HEIGHT = 1280, 720
SIZE = 384
GOPS = (250, 30)
CASES: Mapping[str, tuple[DecoderName | Literal["bare"], Seek]] = {
    "bare loop": ("bare", "exact"),
    "pyav exact": ("pyav", "exact"),
    "pyav keyframe": ("pyav", "keyframe"),
    "decord exact": ("decord", "exact"),
    "decord keyframe": ("decord", "keyframe"),
}


@dataclass(frozen=True)
class Measured:
    """One run: what the frames were.

    right   exact seeking: pictures equal to those of a decode from start to end
    late    seconds between the chosen times and the frames given for them, mean
    """

    frames: int
    right: int
    late: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.worker:
        path, decoder, seek = options.worker
        print(json.dumps(asdict(_work(Path(path), options.frames, decoder, seek))))
        return 0
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for gop in GOPS:
            path = write_video(Path(folder) / f"gop{gop}.mp4", gop, options.minutes)
            result[f"gop {gop}"] = {
                "bytes": path.stat().st_size,
                "cases": _measure(path, options.frames, options.repeats),
            }
    print(json.dumps(result, indent=2, default=asdict))
    if options.save:
        asked = {name: getattr(options, name) for name in ("minutes", "frames", "repeats")}
        write("decode", result, asked)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_AS_WRITTEN)
    parser.add_argument("--minutes", type=float, default=10, help="length of the video")
    parser.add_argument("--frames", type=int, default=64, help="sampled uniformly")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="for the generated videos; a temporary one by default")
    parser.add_argument("--save", action="store_true", help="write results/decode.json")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


_AS_WRITTEN = argparse.RawDescriptionHelpFormatter


def _measure(path: Path, frames: int, repeats: int) -> dict[str, Any]:
    """Spreads of CPU seconds, wall seconds and peak bytes of each case, and its Measured."""
    facts: dict[str, Any] = {}

    def run(name: str) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.decode", "--frames", str(frames)]
        done = run_process([*command, "--worker", str(path), *CASES[name]])
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip()}")
        facts[name] = json.loads(done.stdout)
        return {
            "cpu_seconds": done.cpu_seconds,
            "wall_seconds": done.wall_seconds,
            "peak_bytes": float(done.peak_bytes),
        }

    taken = rounds({name: partial(run, name) for name in CASES}, repeats)
    return {name: {**facts[name], **spreads(samples)} for name, samples in taken.items()}


def _work(path: Path, frames: int, decoder: DecoderName | Literal["bare"], seek: Seek) -> Measured:
    """Decodes once, the way the tool does, or the way of the bare loop."""
    truth = json.loads(path.with_suffix(".json").read_text())
    if decoder == "bare":
        given, total = bare_loop(path, frames, SIZE)
    else:
        request = Request(frames, SIZE, seek, decoder)
        # Its FFmpeg 4.1 may sit on one frame for long; this is about speed, not about patience.
        with Decoder(Limits(stall_seconds=600)) as child:
            probe = child.probe(path)
            given, total = list(child.frames(path, request, probe)), round(probe.seconds * RATE)
    chosen = np.linspace(0, total - 1, frames).astype(int)
    right = sum(
        _digest(frame.pixels) == truth[round(frame.seconds * RATE) % len(truth)]
        and (seek == "keyframe" or round(frame.seconds * RATE) in chosen)
        for frame in given
    )
    late = float(np.mean([abs(c / RATE - f.seconds) for c, f in zip(chosen, given, strict=False)]))
    return Measured(len(given), right, late)


def bare_loop(path: Path, frames: int, size: int) -> tuple[list[Frame], int]:
    """The frames of a video at a constant rate, and how many it has: what one would write with PyAV
    alone. Each frame by its own seek, nothing left out on the way, PIL's bicubic."""
    import av

    from tokenreduce.video.pixels import resized

    given = []
    with av.open(str(path)) as file:
        stream: Any = file.streams.video[0]
        stream.codec_context.thread_count = 2
        step = 1 / stream.average_rate / stream.time_base
        for index in np.linspace(0, stream.frames - 1, frames).astype(int):
            pts = round(int(index) * step)
            file.seek(pts, stream=stream, backward=True)
            frame = next(frame for frame in file.decode(stream) if frame.pts >= pts)
            given.append(Frame(frame.time, resized(frame.to_ndarray(format="rgb24"), size)))
        return given, stream.frames


def write_video(path: Path, gop: int, minutes: float) -> Path:
    """One group of pictures over and over, and beside it (.json) the digests of its frames."""
    import av

    from tokenreduce.video.pixels import resized

    one = path.with_name(f"one-{path.name}")
    _encode(one, gop)
    repeat(one, path, max(1, round(minutes * 60 * RATE / gop)))
    with av.open(str(one)) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    digests = [_digest(resized(cast(Any, frame), SIZE)) for frame in frames]
    path.with_suffix(".json").write_text(json.dumps(digests))
    return path


def _encode(path: Path, gop: int) -> None:
    """`gop` frames of drifting texture with a little noise, about 3 Mb/s."""
    import av

    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (HEIGHT // 16 + 8, WIDTH // 16 + gop // 8 + 8, 3), np.uint8)
    texture = coarse.repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=RATE, options=_X264)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 3_000_000
        stream.codec_context.gop_size = gop
        for index in range(gop):
            picture = texture[index // 2 :, 2 * index :][:HEIGHT, :WIDTH].copy()
            picture[::4] ^= random.integers(0, 8, picture[::4].shape, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


_X264 = {"preset": "veryfast", "x264-params": "scenecut=0:bframes=3:open-gop=0"}


def _digest(pixels: Any) -> str:
    from hashlib import sha256

    return sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TokenReduceError as error:
        sys.exit(str(error))
