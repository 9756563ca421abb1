"""What passes between the decoding child and the rest; imports neither torch nor a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Seek = Literal["exact", "keyframe"]
"""exact: the frame on display at each chosen time. keyframe: the key frame at or before it, at a
fraction of the cost; its own time is the label. Where key frames are sparser than the chosen times,
a time whose key frame is already taken gets its exact frame."""

DecoderName = Literal["auto", "pyav", "decord"]


@dataclass(frozen=True)
class Probe:
    """A file that the whitelisted probe accepted.

    seconds        duration on display
    width, height  in pixels after rotation
    fps            average, frames a second; 0 where the file does not say
    frames         as the container declares; 0 where it does not say. It may lie
    rotation       degrees clockwise that display adds, a multiple of 90
    first_seconds  presentation time of the first frame on the file's own clock
    last_seconds   the same of the last frame, read from the packets and not from a header
    constant_rate  whether frames are evenly spaced, as far as header and ends tell
    declared_seconds  what the file says it lasts, where its pictures end well before that (a
                   download that was cut off, a sound track that goes on); else `seconds`
    """

    path: str
    seconds: float
    width: int
    height: int
    fps: float
    codec: str
    frames: int
    rotation: int
    first_seconds: float
    last_seconds: float = 0.0
    constant_rate: bool = False
    declared_seconds: float = 0.0


@dataclass(frozen=True)
class Frame:
    """A decoded frame. pixels: uint8 (S, S, 3), RGB, full range, rotated and resized.

    seconds: its presentation time, 0 at the first frame of the video.
    """

    seconds: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Repeat:
    """A sampled frame that was not sent, because it shows what the last `Frame` before it shows.

    seconds: its presentation time, 0 at the first frame of the video.
    """

    seconds: float


@dataclass(frozen=True)
class End:
    """What a stream of frames ends with.

    wanted           moments that were chosen; fewer frames come where several moments show the
                     same one, where some do not decode, and where repeats are left out
    complete         False where the file ends before the range that was asked for does, or its
                     last chosen frame does not decode
    reached_seconds  presentation time of the last frame that was sampled, sent or not
    """

    wanted: int
    complete: bool
    reached_seconds: float


@dataclass(frozen=True)
class Limits:
    """What the child may take before it is killed or refuses.

    stall_seconds   without any sign of progress from the child
    memory_bytes    its address space (RLIMIT_AS)
    pixels          width x height of a frame
    """

    stall_seconds: float = 60.0
    memory_bytes: int = 4 << 30
    pixels: int = 64_000_000


@dataclass(frozen=True)
class Request:
    """Which frames are wanted, how large.

    frames   how many, uniformly in time over [start, stop] seconds, both ends included
    size     side in pixels of the square they are resized to (PIL bicubic, aspect ignored)
    start, stop   seconds, 0 at the first frame; stop None is the end of the video
    fps      the frames on display at start, start + 1 / fps, ... up to stop, each once; `frames` is
             then the most there may be: of more moments, that number spread uniformly is taken
    skip_duplicates   a frame that differs by less than this from the last one that was sent is a
             `Repeat`: levels of 255, for instance `repeats.AUTO`; None sends every frame
    """

    frames: int
    size: int
    seek: Seek = "exact"
    decoder: DecoderName = "auto"
    start: float = 0.0
    stop: float | None = None
    fps: float | None = None
    skip_duplicates: float | None = None
