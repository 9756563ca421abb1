"""Decoded frames of which only what is asked for is computed. Knows no files and no times' origin.

A frame that turns out to be a repeat costs a thumbnail, and neither a conversion nor a resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from tokenreduce.video.pixels import Pixels, converted, display_matrix, rgb, upright


class Picture(Protocol):
    """A decoded frame, of which only what is asked for is computed."""

    @property
    def area(self) -> int:
        """Pixels."""
        ...

    def thumbnail(self, side: int) -> Pixels:
        """uint8 (h, w, 3) with h, w <= side: area averages, aspect ignored, any colour space."""
        ...

    def upright(self) -> Pixels:
        """uint8 (h, w, 3), RGB, full range, turned as displayed."""
        ...


@dataclass(frozen=True)
class Coded:
    """A Picture as libav decoded it."""

    frame: VideoFrame
    reformatter: VideoReformatter
    thumbnails: VideoReformatter

    @property
    def area(self) -> int:
        return self.frame.width * self.frame.height

    def thumbnail(self, side: int) -> Pixels:
        size = min(side, self.frame.width), min(side, self.frame.height)
        small = converted(self.frame, self.thumbnails, "yuv444p", size, Interpolation.AREA)
        return np.ascontiguousarray(small.to_ndarray(channel_last=True), np.uint8)

    def upright(self) -> Pixels:
        return upright(rgb(self.frame, self.reformatter), display_matrix(self.frame))


@dataclass(frozen=True)
class Plain:
    """A Picture that is RGB already: uint8 (h, w, 3), turned as displayed."""

    pixels: Pixels

    @property
    def area(self) -> int:
        return int(self.pixels.shape[0] * self.pixels.shape[1])

    def thumbnail(self, side: int) -> Pixels:
        image = Image.fromarray(np.ascontiguousarray(self.pixels))
        size = min(side, image.width), min(side, image.height)
        return np.asarray(image.resize(size, Image.Resampling.BOX))

    def upright(self) -> Pixels:
        return self.pixels


class Sample(NamedTuple):
    """What became of a wanted frame. Times are seconds after the first frame.

    due      when the wanted frame is displayed
    picture  None: it does not decode
    seconds  when the picture is displayed: as a rule, `due`
    """

    due: float
    picture: Picture | None
    seconds: float = 0.0
