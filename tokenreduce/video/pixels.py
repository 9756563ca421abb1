"""A decoded frame to the square RGB the vision tower reads. Knows neither files nor towers.

The reference resizes the full-resolution RGB frame with PIL's bicubic and ignores the aspect; the
bytes here are the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from av import VideoFrame
from av.error import FFmpegError
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from tokenreduce.errors import InputError

Pixels = NDArray[np.uint8]

# What a conversion without scaling takes from the flags is how chroma is interpolated and rounded.
# Plain 8-bit 4:2:0 goes through swscale's own table, as in FFmpeg's command line and in decord,
# within 3 levels of exact; deeper pixels would lose up to twice that without these.
_PLAIN = frozenset({"yuv420p", "yuvj420p", "nv12"})
_CAREFUL = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def rgb(frame: VideoFrame, reformatter: VideoReformatter) -> Pixels:
    """uint8 (h, w, 3), full range, as stored: matrix and range as the file tags them.

    Without tags the matrix is BT.601 and the range limited, as FFmpeg and the reference have it.
    """
    flags = None if frame.format.name in _PLAIN else _CAREFUL
    whole = converted(frame, reformatter, "rgb24", (frame.width, frame.height), flags)
    return whole.to_ndarray().astype(np.uint8, copy=False)


def converted(
    frame: VideoFrame,
    reformatter: VideoReformatter,
    pixels: str,
    size: tuple[int, int],
    interpolation: Interpolation | None,
) -> VideoFrame:
    """By swscale, to a format and a (width, height). A matrix it does not know is taken as BT.601.

    Raises InputError where it cannot convert the frame's format.
    """
    for matrix in (None, Colorspace.ITU601):
        try:
            return reformatter.reformat(
                frame,
                *size,
                pixels,
                src_colorspace=matrix,
                dst_colorspace=matrix,
                interpolation=interpolation,
                threads=1,
            )
        except MemoryError:
            raise
        except FFmpegError:
            continue
    raise InputError(
        f"its pixels are {frame.format.name}, which cannot be converted to RGB: convert it, for "
        "instance to yuv420p"
    )


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d): display maps a pixel at (x, y) to (a x + c y, b x + d y), y downwards."""
    container: Any = frame.side_data
    data = container.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(data), np.int32)
    return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])


def rotation(matrix: tuple[int, int, int, int]) -> int:
    """Degrees clockwise that display adds: 0, 90, 180 or 270."""
    a, b, _, _ = matrix
    return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360


def upright(pixels: Pixels, matrix: tuple[int, int, int, int]) -> Pixels:
    """(h, w, 3) turned and mirrored as displayed, by the nearest multiple of 90 degrees."""
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.transpose(1, 0, 2)
        mirror_x, mirror_y = c < 0, b < 0
    else:
        mirror_x, mirror_y = a < 0, d < 0
    return pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]


def resized(pixels: Pixels, size: int) -> Pixels:
    """uint8 (size, size, 3): PIL bicubic, aspect ignored, nothing cropped or padded."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
