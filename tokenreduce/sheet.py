"""A contact sheet: the frames that were used as one picture, each with its time.

Frames are taken as they come and kept as small pictures, so memory does not grow with the video.
Knows neither videos nor what the frames are for.
"""

from __future__ import annotations

import math
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tokenreduce.errors import InputError, SettingError
from tokenreduce.video.inputs import shown

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MOST = 256
AREA = 320 * 180
"""Pixels of a kept picture, whatever its shape."""

WIDTH = 3840
"""Of the whole sheet at most, in pixels; more pictures are shown smaller."""

_SHAPE = 16 / 10  # of the sheet, width to height, roughly
_GAP = 6
_GROUND, _INK = (24, 24, 24), (255, 255, 255)


@dataclass(frozen=True)
class _Picture:
    at: int  # how many frames came before
    seconds: float
    image: Image.Image


class Sheet:
    """The frames used, as they come.

    aspect  width to height of the video as displayed; frames come squashed to squares
    most    pictures on the sheet, 2 or more. Once there would be more, every other one is let go,
            and so on, so that those that stay are even; the last frame always stays

    Memory is about `most` x 170 KB at most.

    >>> sheet = Sheet(16 / 9)
    >>> sheet.add(0.5, np.zeros((384, 384, 3), np.uint8))
    >>> sheet.render().size
    (332, 218)
    """

    def __init__(self, aspect: float, most: int = MOST) -> None:
        if most < 2:
            raise ValueError(f"a sheet of {most}")
        shape = min(max(aspect, 1 / 8), 8.0) if math.isfinite(aspect) and aspect > 0 else 1.0
        self._size = round(math.sqrt(AREA * shape)), round(math.sqrt(AREA / shape))
        self._most = most
        self._every = 1
        self._count = 0
        self._kept: list[_Picture] = []
        self._last: _Picture | None = None

    def add(self, seconds: float, pixels: NDArray[np.uint8]) -> None:
        """seconds: the frame's time in the file. pixels: uint8 (S, S, 3), RGB."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        small = image.resize(self._size, Image.Resampling.BICUBIC)
        self._last = _Picture(self._count, seconds, small)
        if self._count % self._every == 0:
            self._kept.append(self._last)
        # One place is for the last frame, where that is not one of the even ones.
        if len(self._kept) + (self._every > 1) > self._most:
            self._kept = self._kept[::2]
            self._every *= 2
        self._count += 1

    def render(self) -> Image.Image:
        """The sheet, RGB, under a line that says how many frames there are and which are shown."""
        pictures = self._shown()
        columns, cell = self._layout(len(pictures))
        rows = -(-len(pictures) // columns)
        font = ImageFont.load_default(max(11, min(cell[1] // 8, 24)))
        head = ImageFont.load_default(18)
        caption = self._caption(len(pictures))
        top = 32
        width = columns * (cell[0] + _GAP) + _GAP
        sheet = Image.new(
            "RGB",
            (max(width, round(head.getlength(caption)) + 2 * _GAP), rows * (cell[1] + _GAP) + top),
            _GROUND,
        )
        draw = ImageDraw.Draw(sheet)
        draw.text((_GAP, 6), caption, _INK, head)
        for i, picture in enumerate(pictures):
            x = _GAP + i % columns * (cell[0] + _GAP)
            y = top + i // columns * (cell[1] + _GAP)
            sheet.paste(picture.image.resize(cell, Image.Resampling.BICUBIC), (x, y))
            _label(draw, clock(picture.seconds), (x, y + cell[1]), font)
        return sheet

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sheet, PNG or JPEG by suffix; the file is there whole or not at all.

        Raises as `check` does, and InputError if there is no frame or the disk is full.
        """
        check(path)
        if not self._count:
            raise InputError(f"{shown(path)}: no frame was used, so there is nothing to show")
        target = os.path.abspath(os.fspath(path))
        partial = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.part")
        try:
            with open(partial, "xb") as file:
                self.render().save(file, FORMATS[_suffix(path)], quality=90)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError as error:
            raise _unwritable(path, error) from None
        finally:
            with suppress(OSError):
                os.unlink(partial)

    def _shown(self) -> list[_Picture]:
        kept = self._kept
        if self._last is not None and (not kept or kept[-1].at != self._last.at):
            kept = [*kept, self._last]
        return kept

    def _caption(self, pictures: int) -> str:
        frames = f"{self._count:,} frame{'' if self._count == 1 else 's'} used"
        if pictures == self._count:
            return frames
        return f"{frames}; every {_ordinal(self._every)} and the last are shown"

    def _layout(self, pictures: int) -> tuple[int, tuple[int, int]]:
        """How many columns, and the size of each picture, such that the sheet is a bit wide."""
        width, height = self._size
        ideal = math.sqrt(pictures * _SHAPE * (height + _GAP) / (width + _GAP))
        columns = min(max(round(ideal), 1), pictures)
        scale = min(1.0, ((WIDTH - _GAP) / columns - _GAP) / width)
        return columns, (max(int(width * scale), 1), max(round(height * scale), 1))


def check(path: str | os.PathLike[str]) -> None:
    """Whether a sheet can be written there, to be asked before hours of work.

    Raises SettingError for a suffix other than .png, .jpg and .jpeg, InputError for a folder that
    is missing or closed to this user, and for a path that is a folder or a device.
    """
    name = shown(path)
    if _suffix(path) not in FORMATS:
        raise SettingError(f"{name}: must end in {', '.join(FORMATS)}; name it so")
    target = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise InputError(f"{name}: there is no folder {shown(folder)}; make it, or choose another")
    if os.path.exists(target) and not os.path.isfile(target):
        raise InputError(f"{name}: is no regular file; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{name}: no permission to write there; choose another folder")


def clock(seconds: float) -> str:
    """A time as `--start` takes it.

    >>> clock(7.3), clock(3725.999)
    ('0:07.30', '1:02:06.00')
    """
    hundredths = round(max(seconds, 0.0) * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 100:02d}.{rest % 100:02d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def _label(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """White on a dark plate whose lower left is `corner`: readable on any picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    x, y = corner
    plate = (x, y - (bottom - top) - 8, x + (right - left) + 8, y - 1)
    draw.rectangle(plate, _GROUND)
    draw.text((x + 4 - left, plate[1] + 4 - top), text, _INK, font)


def _suffix(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def _ordinal(number: int) -> str:
    # Of a power of two: none ends in 1 or 3 but 1.
    return f"{number}nd" if number % 10 == 2 and number % 100 != 12 else f"{number}th"


def _unwritable(path: str | os.PathLike[str], error: OSError) -> InputError:
    return InputError(
        f"{shown(path)}: cannot be written ({error.strerror}); choose another place, or make room"
    )
