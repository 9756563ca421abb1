"""Picture files: what is in them, upright and in RGB; damaged and huge ones are one clear line."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tokenreduce.errors import InputError
from tokenreduce.images import is_image, opened, read_images
from tokenreduce.models.spec import ModelSpec, Still, TextSpec, Tiling, VisionSpec

WIDE, HIGH = 24, 16


def photo() -> NDArray[np.uint8]:
    """Smooth, so that JPEG keeps it: red grows to the right, green downwards, blue is 80."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDE), np.linspace(0, 255, HIGH))
    return np.stack([x, y, np.full_like(x, 80)], axis=-1).round().astype(np.uint8)


def saved(folder: Path, name: str, image: Image.Image | None = None, **options: Any) -> Path:
    path = folder / name
    (image or Image.fromarray(photo())).save(path, **options)
    return path


def as_array(path: Path) -> NDArray[np.int64]:
    return np.asarray(opened(path)).astype(np.int64)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.bmp", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.jpg", {"quality": 95, "subsampling": 0}, 8),
        ("A.JPEG", {"progressive": True, "quality": 95, "subsampling": 0}, 8),
        ("no suffix", {"format": "PNG"}, 0),
        ("wrong.mp4", {"format": "PNG"}, 0),
        ("größe 'quoted' 東.png", {}, 0),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, Any], tolerance: int) -> None:
    path = saved(tmp_path, name, **options)
    assert is_image(path)
    found = as_array(path)
    assert found.shape == (HIGH, WIDE, 3)
    assert np.abs(found - photo()).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    """What is stored turned is shown upright: the corner that is black and the one that is red."""
    upright = np.zeros((HIGH, WIDE, 3), np.uint8)
    upright[:, :, 1] = 200
    upright[0, 0] = 0
    upright[0, -1] = (255, 0, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(as_array(path), upright)
    assert read_images([path], spec(8, "stretch")).sizes == ((WIDE, HIGH),)


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_an_orientation_that_means_nothing_changes_nothing(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(as_array(saved(tmp_path, "a.png", exif=exif)), photo())


def test_garbage_for_exif_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff" + b"\x99" * 40)
    assert np.array_equal(as_array(path), photo())


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    rgba = np.dstack([photo(), np.full((HIGH, WIDE), 255, np.uint8)])
    rgba[:8, :, 3] = 0
    rgba[8, :, 3] = 128
    found = as_array(saved(tmp_path, "a.png", Image.fromarray(rgba)))
    assert (found[:8] == 255).all()
    assert np.array_equal(found[9:], photo()[9:])
    assert np.abs(found[8] - (photo()[8].astype(int) + 255) / 2).max() <= 2


def test_palettes_and_their_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1, 0, 1, 1, 1, 0, 0])
    plain = as_array(saved(tmp_path, "plain.png", image))
    assert plain[0, 0].tolist() == [10, 20, 30]
    assert plain[0, 1].tolist() == [200, 100, 50]
    clear = as_array(saved(tmp_path, "clear.png", image, transparency=1))
    assert clear[0, 0].tolist() == [10, 20, 30]
    assert clear[0, 1].tolist() == [255, 255, 255]


def test_grey_of_8_and_16_bits_look_the_same(tmp_path: Path) -> None:
    grey = photo()[..., 0]
    eight = as_array(saved(tmp_path, "8.png", Image.fromarray(grey)))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    sixteen = as_array(saved(tmp_path, "16.png", deep))
    assert np.array_equal(eight, np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(sixteen, eight)


def test_modes_of_one_bit_grey_with_alpha_and_cmyk(tmp_path: Path) -> None:
    bits = as_array(saved(tmp_path, "1.png", Image.fromarray(photo()[..., 0] > 127)))
    assert set(np.unique(bits)) == {0, 255}
    faint = Image.fromarray(photo()[..., 0]).convert("LA")
    faint.putalpha(0)
    assert (as_array(saved(tmp_path, "la.png", faint)) == 255).all()
    cmyk = Image.fromarray(photo()).convert("CMYK")
    assert np.abs(as_array(saved(tmp_path, "c.jpg", cmyk, quality=98)) - photo()).max() < 16


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_the_first_frame_of_an_animation(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, name, frames[0], save_all=True, append_images=frames[1:], duration=100)
    assert np.abs(as_array(path) - [255, 0, 0]).max() <= 3


def spec(size: int, still: Still) -> ModelSpec:
    vision = VisionSpec(1, 8, 8, 1, size, 2, mean=(0.5, 0.25, 0.1))
    text = TextSpec(1, 8, 8, 1, 1, 8, 9, 99)
    sides = [size * i for i in (1, 2, 3)]
    tiling = Tiling(tuple((h, w) for h in sides for w in sides), 9)
    return ModelSpec("x", vision, text, "none", "no_token", 1, False, None, still, tiling)


def test_stretch_ignores_the_aspect_and_crop_keeps_it(tmp_path: Path) -> None:
    path, image = saved(tmp_path, "a.png"), Image.fromarray(photo())
    found = read_images([path], spec(6, "stretch"))
    assert np.array_equal(
        found.pixels[0], np.asarray(image.resize((6, 6), Image.Resampling.BICUBIC))
    )
    found = read_images([path], spec(8, "crop"))
    resized = np.asarray(image.resize((12, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(found.pixels[0], resized[:, 2:10])
    assert found.sizes == ((WIDE, HIGH),)
    assert found.paths == (str(path),)


def test_one_picture_in_tiles(tmp_path: Path) -> None:
    """24 x 16 fits 3 x 2 tiles of 8 as it is; 20 x 16 is padded with black, left and right."""
    found = read_images([saved(tmp_path, "a.png")], spec(8, "tiles"))
    assert found.pixels.shape == (7, 8, 8, 3)
    rows = [np.concatenate(found.pixels[i : i + 3], axis=1) for i in (1, 4)]
    assert np.array_equal(np.concatenate(rows), photo())
    narrow = saved(tmp_path, "b.png", Image.fromarray(photo()[:, :20]))
    found = read_images([narrow], spec(8, "tiles"))
    rows = [np.concatenate(found.pixels[i : i + 3], axis=1) for i in (1, 4)]
    whole = np.concatenate(rows)
    assert np.array_equal(whole[:, 2:22], photo()[:, :20])
    assert not whole[:, :2].any()
    assert not whole[:, 22:].any()


def test_several_in_tiles_are_padded_to_squares_instead(tmp_path: Path) -> None:
    paths = [saved(tmp_path, "a.png"), saved(tmp_path, "b.png", Image.new("RGB", (9, 3), "red"))]
    found = read_images(paths, spec(9, "tiles"))
    assert found.pixels.shape == (2, 9, 9, 3)
    # The edges between picture and background are blurred by the resize only at other sizes.
    assert (found.pixels[1, 3:6] == [255, 0, 0]).all()
    assert (found.pixels[1, :3] == [127, 63, 25]).all()


def test_several_pictures_of_different_sizes(tmp_path: Path) -> None:
    paths = [saved(tmp_path, "a.png"), saved(tmp_path, "b.png", Image.new("RGB", (5, 90), "red"))]
    found = read_images(paths, spec(10, "crop"))
    assert found.pixels.shape == (2, 10, 10, 3)
    assert found.pixels.dtype == np.uint8
    assert found.sizes == ((WIDE, HIGH), (5, 90))
    assert (found.pixels[1] == [255, 0, 0]).all()


def test_no_picture_at_all() -> None:
    with pytest.raises(InputError, match="at least one"):
        read_images([], spec(8, "crop"))


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        whole = kind + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_images([path], spec(8, "crop"), **options)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line or repr(path.name)[1:-1] in line
    return line


@pytest.mark.parametrize("side", [9_000, 14_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_unread(tmp_path: Path, side: int) -> None:
    """Below, at and above the limits Pillow has itself."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(side, side, bytes(1000)))
    assert "allowed" in refusal(path) or "damaged" in refusal(path)


def test_the_limit_is_on_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png")
    read_images([path], spec(8, "crop"), max_pixels=WIDE * HIGH)
    said = refusal(path, max_pixels=WIDE * HIGH - 1)
    assert "24 x 16 pixels" in said
    assert "scale it down" in said


def test_long_and_narrow_ones_are_refused_where_they_must_be_enlarged(tmp_path: Path) -> None:
    path = saved(tmp_path, "thread.png", Image.new("L", (60_000, 1)))
    assert read_images([path], spec(336, "stretch")).pixels.shape == (1, 336, 336, 3)
    cases: list[tuple[Still, int]] = [("crop", 1), ("tiles", 1), ("tiles", 2)]
    for still, count in cases:
        with pytest.raises(InputError, match=r"thread.png: 60000 x 1 pixels are too long"):
            read_images([path] * count, spec(336, still))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, name: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = saved(tmp_path, name, Image.fromarray(noise))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert is_image(path)
    said = refusal(path)
    assert "damaged" in said or "no picture" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello, I am a text", "no picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no picture|damaged"),
        (b"\xff\xd8\xff" + bytes(100), "no picture|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
        (png_of(0, 5), "nothing to see|damaged|no picture"),
        (png_of(5, 0), "nothing to see|damaged|no picture"),
        (png_of(5, 5, b"\x00" * 20), "damaged"),
    ],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    assert re.search(said, refusal(path))


def test_what_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert "directory" in refusal(tmp_path / "folder.jpg")
    assert not is_image(tmp_path / "none.jpg")
    assert not is_image(tmp_path / "folder.jpg")
    assert not is_image("a\0b.jpg")


@pytest.mark.parametrize(
    ("head", "picture"),
    [
        (b"\x00\x00\x00\x20ftypisom", False),
        (b"\x1aE\xdf\xa3", False),
        (b"GIF89a", False),
        (b"RIFF\x00\x00\x00\x00AVI ", False),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", True),
        (b"nothing known", True),
    ],
)
def test_videos_under_a_pictures_name_are_videos(
    tmp_path: Path, head: bytes, picture: bool
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(head + bytes(20))
    assert is_image(path) is picture
    other = tmp_path / "a.mp4"
    other.write_bytes(head + bytes(20))
    assert is_image(other) is (picture and head.startswith(b"RIFF"))


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(["a.jpg", "a.png", "a.webp"]), st.data())
def test_damaged_bytes_give_a_picture_or_one_line(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    path = saved(tmp_path, name)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    said = ""
    try:
        found = read_images([path], spec(8, "tiles"), max_pixels=1_000_000)
    except InputError as error:
        said = str(error)
    else:
        assert found.pixels.shape[1:] == (8, 8, 3)
    assert "\n" not in said
