"""Looks at what decodes videos, and lets it decode one. Taken in a helper process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tokenreduce.health.finding import Asked, Finding, of_error
from tokenreduce.health.packages import installed

_CODECS = {
    "H.264": ("h264",),
    "HEVC": ("hevc",),
    "VP9": ("vp9", "libvpx-vp9"),
    # FFmpeg's own needs hardware for it.
    "AV1": ("libdav1d", "libaom-av1", "libgav1"),
}
_FRAMES, _SIDE = 8, 64


def pyav(asked: Asked) -> Iterator[Finding]:
    """Its version, FFmpeg's, and the decoders of the usual kinds of video."""
    try:
        import av
    except Exception as error:
        found = of_error("pyav", error)
        text = f"cannot be imported ({found.text}): no video can be read; pip install av"
        yield Finding("pyav", "problem", text)
        return
    ffmpeg = getattr(av, "ffmpeg_version_info", "of an unknown version")
    there = [name for name, codecs in _CODECS.items() if any(map(_decodes, codecs))]
    text = f"{av.__version__}, FFmpeg {ffmpeg}: {', '.join(there)}"
    if absent := [name for name in _CODECS if name not in there]:
        text += f"; no decoder of {', '.join(absent)}: install PyAV's own wheel (pip install av)"
    yield Finding("pyav", "warning" if absent else "ok", text)


def decord(asked: Asked) -> Iterator[Finding]:
    """The optional decoder."""
    here = installed("decord")
    if here is None:
        yield Finding("decord", "ok", "not installed; only for --decoder decord")
        return
    try:
        import_module("decord")
    except Exception as error:
        found = of_error("decord", error)
        yield Finding("decord", "warning", f"{here}, cannot be imported ({found.text})")
        return
    yield Finding("decord", "ok", f"{here}, for --decoder decord")


def a_clip(asked: Asked) -> Iterator[Finding]:
    """A clip is made and decoded as any video would be: in a child process of its own."""
    from tokenreduce.video.decoder import Decoder
    from tokenreduce.video.types import Frame, Request

    with tempfile.TemporaryDirectory() as folder, Decoder() as child:
        path = os.path.join(folder, "clip.mp4")
        codec = _write(path)
        probe = child.probe(path)
        items = child.frames(path, Request(_FRAMES, _SIDE), probe)
        count = sum(isinstance(item, Frame) for item in items)
    if count == _FRAMES:
        yield Finding("decoding", "ok", f"a clip ({codec}) was decoded in a process of its own")
    else:
        text = f"{count} of {_FRAMES} frames of a clip ({codec}) were decoded: reinstall av"
        yield Finding("decoding", "problem", text)


def _decodes(codec: str) -> bool:
    from av.codec import Codec

    try:
        Codec(codec, "r")
    except Exception:  # PyAV's error for it was moved between its versions
        return False
    return True


def _write(path: str) -> str:
    """A clip of a second, by the first encoder of two that is there; its name."""
    import av
    import numpy as np
    from av.codec import Codec

    codec = "libx264"
    try:
        Codec(codec, "w")
    except Exception:  # as above
        codec = "mpeg4"
    with av.open(path, "w") as file:
        stream: Any = file.add_stream(codec, rate=_FRAMES)
        stream.width = stream.height = _SIDE
        stream.pix_fmt = "yuv420p"
        for index in range(_FRAMES):
            shade = np.full((_SIDE, _SIDE, 3), 30 * index, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        file.mux(stream.encode(None))
    return codec
