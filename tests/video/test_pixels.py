"""Resizing against the reference's bytes, colours against the arithmetic of their standards."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from tokenreduce.errors import InputError
from tokenreduce.video.pictures import Coded
from tokenreduce.video.pixels import resized, rgb, rotation, upright

GOLDEN = Path(__file__).parents[1] / "golden" / "llava_video_io" / "preprocess.npz"
CASES = [("f1_48x64_to384", 384), ("f2_33x77_to98", 98), ("f3_120x90_to56", 56)]
BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


@pytest.mark.parametrize(("case", "size"), CASES)
def test_resized_bytes_are_the_references(case: str, size: int) -> None:
    golden = np.load(GOLDEN)
    ours = np.stack([resized(frame, size) for frame in golden[f"{case}.frames_uint8"]])
    channels_first = np.ascontiguousarray(ours.transpose(0, 3, 1, 2))
    if f"{case}.resized_uint8" in golden:
        np.testing.assert_array_equal(channels_first, golden[f"{case}.resized_uint8"])
    else:
        digest = hashlib.sha256(channels_first.tobytes()).digest()
        assert digest == golden[f"{case}.resized_sha256"].tobytes()


def patches(pixels: str, matrix: int, colour_range: int) -> tuple[av.VideoFrame, NDArray[Any]]:
    """A frame of flat 16 x 16 patches, and its Y, U, V (64, 96, 3) in 8-bit levels."""
    random = np.random.default_rng(0)
    yuv = np.stack(
        [random.integers(low, high, (4, 6)) for low, high in ((60, 180), (100, 156), (100, 156))],
        -1,
    )
    yuv = yuv.repeat(16, 0).repeat(16, 1)
    frame: Any = av.VideoFrame(96, 64, pixels)
    deep = "10" in pixels
    step = 1 if "444" in pixels else 2
    for plane, channel, every in zip(frame.planes, range(3), (1, step, step), strict=True):
        row = np.zeros(
            (plane.height, plane.line_size // (2 if deep else 1)), "<u2" if deep else "u1"
        )
        row[:, : plane.width] = yuv[::every, ::every, channel] * (4 if deep else 1)
        plane.update(row.tobytes())
    frame.colorspace, frame.color_range = matrix, colour_range
    return frame, yuv.astype(float)


def exact_rgb(yuv: NDArray[Any], weights: tuple[float, float], full: bool) -> NDArray[Any]:
    """The definition, ITU-R BT.601, BT.709, BT.2020: R, G, B in 0..255."""
    y, u, v = yuv[..., 0], yuv[..., 1] - 128, yuv[..., 2] - 128
    if not full:
        y, u, v = (y - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    red, blue = weights
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1), 0, 255)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize(
    ("matrix", "weights"),
    # AVColorSpace: 1 BT.709, 2 unspecified, 3 reserved, 5 and 6 BT.601, 9 BT.2020
    [(1, BT709), (2, BT601), (3, BT601), (5, BT601), (6, BT601), (9, BT2020)],
)
@pytest.mark.parametrize("colour_range", [0, 1, 2])  # unspecified (limited), limited, full
def test_colours_are_right_by_their_tags(
    pixels: str, matrix: int, weights: tuple[float, float], colour_range: int
) -> None:
    frame, yuv = patches(pixels, matrix, colour_range)
    error = np.abs(rgb(frame, VideoReformatter()) - exact_rgb(yuv, weights, colour_range == 2))
    # In the middle of the patches, where chroma is not interpolated. A wrong matrix or range is
    # off by more than 8 levels somewhere.
    middle = error.reshape(4, 16, 6, 16, 3)[:, 4:12, :, 4:12]
    assert middle.max() < (3 if pixels == "yuv420p" else 1)


@pytest.mark.parametrize(
    ("matrix", "degrees", "expected"),
    [
        ((1, 0, 0, 1), 0, lambda p: p),
        ((0, 1, -1, 0), 90, lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), 180, lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), 270, lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), 180, lambda p: p[:, ::-1]),  # mirrored, as some selfie cameras store it
        ((0, 1, 1, 0), 90, lambda p: p.transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_as_displayed(
    matrix: tuple[int, int, int, int], degrees: int, expected: Any
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    np.testing.assert_array_equal(upright(pixels, matrix), expected(pixels))
    assert rotation(matrix) == degrees


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p10le", "gray", "rgb24", "pal8", "gbrp"])
@pytest.mark.parametrize("matrix", range(18))
def test_any_matrix_gives_a_picture_and_a_thumbnail(pixels: str, matrix: int) -> None:
    """Files are tagged with matrices that swscale does not know, and with reserved numbers."""
    frame: Any = av.VideoFrame(64, 48, pixels)
    for plane in frame.planes:
        plane.update(bytes([100]) * plane.buffer_size)
    frame.colorspace = matrix
    picture = Coded(frame, VideoReformatter(), VideoReformatter())
    assert picture.upright().shape == (48, 64, 3)
    assert picture.thumbnail(32).shape == (32, 32, 3)
    assert picture.thumbnail(96).shape == (48, 64, 3)


def test_pixels_that_cannot_be_converted_are_one_line() -> None:
    frame = av.VideoFrame(64, 48, "rgb96le")
    picture = Coded(frame, VideoReformatter(), VideoReformatter())
    for ask in (picture.upright, lambda: picture.thumbnail(32)):
        with pytest.raises(InputError, match="its pixels are rgb96le, which cannot be converted"):
            ask()
