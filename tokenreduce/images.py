"""Reads picture files into the square RGB a vision tower takes; knows no model and no video.

Files are not trusted: what a file is, is told by its first bytes, its size in pixels is checked
before a pixel is decoded, and whatever a damaged one does to the decoder becomes one line.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tokenreduce.errors import InputError
from tokenreduce.models.spec import Still
from tokenreduce.video.inputs import checked, shown

Pixels = NDArray[np.uint8]

MAX_PIXELS = 64_000_000
"""Width x height of a picture; the same as for a frame of a video."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp"})
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """A file that was read. width, height: upright, before it was brought to the tower's size.

    pixels: uint8 (S, S, 3), RGB.
    """

    path: str
    width: int
    height: int
    pixels: Pixels


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the file is a picture and no video: by its first bytes, or, if these say nothing, by
    its suffix. False for what cannot be read."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    if _is_picture(head):
        return True
    # A damaged picture is told about as a picture; a video under a picture's name is a video.
    return os.path.splitext(os.fspath(path))[1].lower() in _SUFFIXES and not _is_video(head)


def read_images(
    paths: Sequence[str | os.PathLike[str]], size: int, still: Still, max_pixels: int = MAX_PIXELS
) -> tuple[Picture, ...]:
    """The pictures at `paths`, each brought to `size` x `size` by the rule `still`.

    Rotated as EXIF says; transparent parts are white; of an animation the first frame. Raises
    InputError for a file that is no picture, is damaged, or has more than `max_pixels`.
    """
    return tuple(_read(path, size, still, max_pixels) for path in paths)


def opened(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in RGB and upright. Raises InputError."""
    absolute, name = checked(path), shown(path)
    try:
        with warnings.catch_warnings():
            # Of odd metadata; and its own limit on size, which comes later than ours.
            warnings.simplefilter("ignore")
            with Image.open(absolute, formats=_FORMATS) as image:
                width, height = image.size
                if min(width, height) < 1:
                    raise InputError(f"{name}: has {width} x {height} pixels, so nothing to see")
                if width * height > max_pixels:
                    raise InputError(
                        f"{name}: has {width} x {height} pixels; allowed are "
                        f"{max_pixels / 1e6:g} million: scale it down"
                    )
                image.load()
                return _upright(rgb(image), image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: is no picture that can be read; give JPEG, PNG or WebP"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{name}: has more pixels than allowed, {max_pixels / 1e6:g} million: scale it down"
        ) from None
    except MemoryError:
        raise InputError(f"{name}: does not fit into memory: scale it down") from None
    except Exception as error:
        # Decoders of damaged files raise what they happen to run into.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: damaged ({reason}); copy or save it again") from None


def rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16-bit grey is scaled and not cut off, what is transparent lies on white, as in
    transformers' processors."""
    if image.mode.startswith("I"):  # 16-bit grey, under several names
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def fitted(image: Image.Image, size: int, still: Still) -> Pixels:
    """uint8 (size, size, 3), resized by PIL's bicubic.

    "stretch": aspect ignored, as frames of a video are. "crop": the shorter side to `size`, then
    the middle square, as CLIP's processor does. Raises InputError if that cannot be held.
    """
    if still == "stretch":
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
    width, height = image.size
    short = min(width, height)
    wide, high = int(size * width / short), int(size * height / short)
    if wide * high > MAX_PIXELS:
        raise InputError(
            f"{width} x {height} pixels: too long and narrow to look at its middle; cut it"
        )
    resized = np.array(image.resize((wide, high), Image.Resampling.BICUBIC))
    top, left = (high - size) // 2, (wide - size) // 2
    return resized[top : top + size, left : left + size]


def _read(path: str | os.PathLike[str], size: int, still: Still, max_pixels: int) -> Picture:
    image = opened(path, max_pixels)
    try:
        pixels = fitted(image, size, still)
    except InputError as error:
        raise InputError(f"{shown(path)}: {error}") from None
    return Picture(os.path.abspath(path), image.width, image.height, pixels)


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    """Turned and mirrored as the EXIF data of `source` say; as stored where they say nothing."""
    try:
        orientation = source.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata are no reason to refuse the picture
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _is_picture(head: bytes) -> bool:
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
    )


def _is_video(head: bytes) -> bool:
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
        or head.startswith((b"\x1aE\xdf\xa3", b"GIF8", b"OggS", b"FLV"))
        or (head[:4] == b"RIFF" and head[8:11] == b"AVI")
    )
