"""Reads picture files into the square RGB a vision tower takes; knows no model and no video.

Files are not trusted: what a file is, is told by its first bytes, its size in pixels is checked
before a pixel is decoded, and whatever a damaged one does to the decoder becomes one line.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tokenreduce.errors import InputError
from tokenreduce.models.spec import ModelSpec, Tiling
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
class Pictures:
    """Files that were read, as a model is shown them.

    paths, sizes  of each file; its width and height, upright, before anything else
    pixels        uint8 (f, S, S, 3), RGB: one of each picture; of a single one that is looked at in
                  tiles, the whole and then the tiles row by row
    formats       of each file: jpeg, png, webp or bmp
    """

    paths: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    pixels: Pixels
    formats: tuple[str, ...]


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
    paths: Sequence[str | os.PathLike[str]], spec: ModelSpec, max_pixels: int = MAX_PIXELS
) -> Pictures:
    """The pictures at `paths`, at least one, brought to the tower's size as `spec.still` says.

    Rotated as EXIF says; transparent parts are white; of an animation the first frame. Raises
    InputError for a file that is no picture, is damaged, or has more than `max_pixels`, and for a
    model that takes no pictures.
    """
    if not paths:
        raise InputError("no picture: give the path of at least one")
    if spec.still is None:
        raise InputError(
            f"{shown(paths[0])}: is a picture, and {spec.name} takes videos alone: give one, or "
            "choose another --model"
        )
    sizes, pixels, formats = [], [], []
    for path in paths:
        image = opened(path, max_pixels)
        try:
            pixels.append(prepared(image, spec, alone=len(paths) == 1))
        except InputError as error:
            raise InputError(f"{shown(path)}: {error}") from None
        sizes.append(image.size)
        formats.append((image.format or "").lower())
    absolute = tuple(os.path.abspath(path) for path in paths)
    return Pictures(absolute, tuple(sizes), np.concatenate(pixels), tuple(formats))


def opened(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in RGB and upright; `format` is that of the file. Raises InputError."""
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
                made = _upright(rgb(image), image)
                made.format = image.format  # a conversion forgets it
                return made
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


def prepared(image: Image.Image, spec: ModelSpec, *, alone: bool) -> Pixels:
    """uint8 (f, S, S, 3) of one picture in RGB, resized by PIL's bicubic; alone: it is the only
    one. Raises InputError if it is too long and narrow."""
    size, tiling = spec.vision.image_size, spec.tiling
    if spec.still == "crop":
        return cropped(image, size)[np.newaxis]
    if spec.still == "tiles" and tiling is not None:
        return tiled(image, size, tiling) if alone else padded(image, spec)[np.newaxis]
    return _resized(image, size, size)[np.newaxis]


def cropped(image: Image.Image, size: int) -> Pixels:
    """(size, size, 3): the shorter side to `size`, then the middle square, as CLIP's processor."""
    width, height = image.size
    short = min(width, height)
    wide, high = int(size * width / short), int(size * height / short)
    if wide * high > MAX_PIXELS:
        raise _narrow(image)
    whole = _resized(image, wide, high)
    top, left = (high - size) // 2, (wide - size) // 2
    return whole[top : top + size, left : left + size]


def padded(image: Image.Image, spec: ModelSpec) -> Pixels:
    """(S, S, 3): on a square of the mean colour, then resized, as LLaVA-OneVision's processor
    does with several pictures."""
    side, size = max(image.size), spec.vision.image_size
    if side**2 > 4 * MAX_PIXELS:
        raise _narrow(image)
    red, green, blue = (int(255 * mean) for mean in spec.vision.mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return _resized(square, size, size)


def tiled(image: Image.Image, size: int, tiling: Tiling) -> Pixels:
    """(1 + t, size, size, 3): the whole picture, aspect ignored; then, resized within the best of
    the resolutions and padded with black, its tiles row by row."""
    width, height = image.size
    best = tiling.best(width, height)
    if best is None or tiling.grid(width, height, 2, size) is None:
        raise _narrow(image)
    high, wide = best
    if wide / width < high / height:
        inner = wide, min(ceil(height * (wide / width)), high)
    else:
        inner = min(ceil(width * (high / height)), wide), high
    canvas = np.zeros((high, wide, 3), np.uint8)
    left, top = (wide - inner[0]) // 2, (high - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = _resized(image, *inner)
    tiles = canvas.reshape(high // size, size, wide // size, size, 3).swapaxes(1, 2)
    return np.concatenate(
        [_resized(image, size, size)[np.newaxis], tiles.reshape(-1, size, size, 3)]
    )


def _resized(image: Image.Image, width: int, height: int) -> Pixels:
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def _narrow(image: Image.Image) -> InputError:
    return InputError(f"{image.width} x {image.height} pixels are too long and narrow; cut it")


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
