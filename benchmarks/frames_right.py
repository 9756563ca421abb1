"""Whether the frames given are the ones they should be: PyAV and decord on clips of many kinds.

    python -m benchmarks.frames_right --save

Generated clips of 150 frames, 20 of them asked for through the tool's own decoding child. The truth
is a decode from start to end without any seeking. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from benchmarks.record import write
from tokenreduce.errors import InputError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.pixels import resized, rgb
from tokenreduce.video.types import DecoderName, Limits, Request

FRAMES, WANTED, SIZE, RATE = 150, 20, 64, 30
X265 = "log-level=none:bframes=4:keyint=25:min-keyint=25"
CLIPS: Mapping[str, tuple[str, dict[str, str]]] = {
    "h264.mp4": ("libx264", {"x264-params": "bframes=3:keyint=250"}),
    "h264-open-gop.mp4": ("libx264", {"x264-params": "bframes=5:open-gop=1:keyint=25"}),
    "hevc.mp4": ("libx265", {"x265-params": f"{X265}:open-gop=0"}),
    "hevc-open-gop.mp4": ("libx265", {"x265-params": X265}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "av1.mp4": ("libsvtav1", {"preset": "12"}),
    "mpeg4.avi": ("mpeg4", {}),
    "h264.ts": ("libx264", {"x264-params": "bframes=3:keyint=25"}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--patience", type=float, default=20.0, help="seconds until a stall ends it"
    )
    parser.add_argument("--save", action="store_true", help="write results/frames_right.json")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        Decoder(Limits(stall_seconds=options.patience)) as decoder,
    ):
        clips = {name: _write(Path(folder) / name, *how) for name, how in CLIPS.items()}
        clips["cut.mp4"] = _cut(clips["h264.mp4"], Path(folder) / "cut.mp4")
        result = {name: _compare(decoder, path) for name, path in clips.items()}
    print(json.dumps(result, indent=2))
    if options.save:
        write("frames_right", result, {"patience": options.patience})
    return 0


def _compare(decoder: Decoder, path: Path) -> dict[str, Any]:
    reformatter = VideoReformatter()
    with av.open(str(path)) as file:
        truth = [resized(rgb(frame, reformatter), SIZE) for frame in file.decode(video=0)]
    return {
        "frames": len(truth),
        "asked": WANTED,
        "pyav": _count(decoder, path, "pyav", truth),
        "decord": _count(decoder, path, "decord", truth),
    }


def _count(
    decoder: Decoder, path: Path, name: DecoderName, truth: list[NDArray[np.uint8]]
) -> dict[str, Any]:
    """given: frames that came; right: showing the picture that belongs to the time they claim."""
    try:
        frames = list(decoder.frames(path, Request(WANTED, SIZE, decoder=name)))
    except InputError as error:
        return {"error": str(error).partition(": ")[2]}
    right = 0
    for frame in frames:
        place = round(frame.seconds * RATE)
        if place < len(truth):
            # Neighbours differ by far more, conversions to RGB by far less.
            right += float(np.abs(frame.pixels.astype(int) - truth[place]).mean()) < 1.5
    return {"given": len(frames), "right": int(right)}


def _picture(index: int) -> NDArray[np.uint8]:
    """A gradient that moves 3 levels a frame."""
    x, y = np.arange(96)[None, :], np.arange(64)[:, None]
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 0] = 2 * x % 64 + 3 * index % 192
    image[..., 1] = (3 * y + index) % 256
    image[..., 2] = 17 * index % 256
    return image


def _write(path: Path, codec: str, options: Mapping[str, str]) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=RATE, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        if codec in {"libvpx-vp9", "libsvtav1", "mpeg4"}:
            stream.codec_context.gop_size = 25
        for index in range(FRAMES):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(index), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def _cut(source: Path, path: Path) -> Path:
    """As `ffmpeg -ss 2 -c copy`: packets from the key frame before, hidden by an edit list."""
    with (
        av.open(str(source)) as whole,
        av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as part,
    ):
        stream: Any = whole.streams.video[0]
        copy = part.add_stream_from_template(stream)
        shift = round(2 / stream.time_base)
        for packet in whole.demux(stream):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                part.mux(packet)
    return path


if __name__ == "__main__":
    sys.exit(main())
