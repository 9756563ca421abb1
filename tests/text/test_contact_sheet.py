"""The contact sheet: which frames it shows, in what shape, and how it is written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tokenreduce import sheet as module
from tokenreduce.errors import InputError, SettingError, TokenReduceError
from tokenreduce.sheet import AREA, MOST, WIDTH, Sheet, check, clock


def plain(value: int = 0, side: int = 32) -> NDArray[np.uint8]:
    return np.full((side, side, 3), value, np.uint8)


def filled(count: int, aspect: float = 16 / 9, most: int = MOST) -> Sheet:
    sheet = Sheet(aspect, most)
    for i in range(count):
        sheet.add(float(i), plain(i % 256))
    return sheet


def test_each_frame_is_there_in_order_with_a_label() -> None:
    sheet = Sheet(16 / 9)
    levels = (60, 120, 180)
    for i, level in enumerate(levels):
        sheet.add(i * 1.5, plain(level))
    picture = np.asarray(sheet.render())
    assert picture.shape == (32 + 2 * 186, 2 * 326 + 6, 3)
    for level, (y, x) in zip(levels, ((32, 6), (32, 332), (218, 6)), strict=True):
        cell = picture[y : y + 180, x : x + 320]
        assert (cell[:100] == level).all()
        # White letters on a dark plate, lower left.
        assert (cell[-24:, :80] >= 250).any()
        assert (cell[-24:, :80] <= 24).any()
        assert (cell[:, 160:] == level).all()


@pytest.mark.parametrize("level", [0, 255])
def test_times_are_readable_on_any_picture(level: int) -> None:
    sheet = Sheet(1.0)
    sheet.add(83.25, plain(level))
    label = np.asarray(sheet.render().convert("L"))[-36:-6, 6:80]
    assert label.max() > 240
    assert label.min() < 40


@pytest.mark.parametrize(("aspect", "shape"), [(16 / 9, 16 / 9), (9 / 16, 9 / 16), (1, 1), (99, 8)])
def test_the_squash_to_a_square_is_undone(aspect: float, shape: float) -> None:
    width, height = filled(1, aspect)._size
    assert width / height == pytest.approx(shape, rel=0.02)
    assert width * height == pytest.approx(AREA, rel=0.02)


@pytest.mark.parametrize("aspect", [0.0, -1.0, float("nan"), float("inf")])
def test_an_unknown_shape_is_a_square(aspect: float) -> None:
    assert Sheet(aspect)._size == Sheet(1.0)._size


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(2, 32))
def test_beyond_the_most_it_thins_evenly(count: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AREA", 64)  # quick to shrink to
        sheet = filled(count, 1.0, most)
    kept = sheet._shown()
    places = [picture.at for picture in kept]
    assert len(places) <= most
    assert len(places) == count or len(places) > most / 2
    assert (places[0], places[-1]) == (0, count - 1)
    step = sheet._every
    assert places[:-1] == list(range(0, places[-1], step))
    assert all(picture.seconds == picture.at for picture in kept)
    caption = sheet._caption(len(kept))
    assert (len(places) == count) == (caption == f"{count} frame{'s' * (count > 1)} used")
    assert len(places) == count or f"every {step}" in caption


def test_exactly_the_most_is_shown_whole() -> None:
    assert len(filled(64, most=64)._shown()) == 64
    assert len(filled(65, most=64)._shown()) == 33


@pytest.mark.parametrize("aspect", [16 / 9, 9 / 16, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 256])
def test_the_sheet_has_a_shape_that_can_be_looked_at(count: int, aspect: float) -> None:
    sheet = filled(count, aspect)
    columns, cell = sheet._layout(count)
    rows = -(-count // columns)
    width, height = columns * (cell[0] + 6) + 6, rows * (cell[1] + 6) + 32
    assert columns * rows < count + columns
    assert width <= WIDTH
    assert cell[0] / cell[1] == pytest.approx(sheet._size[0] / sheet._size[1], rel=0.03)
    assert count < 7 or 0.9 < width / height < 2.5


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG")]
)
def test_it_is_written_by_suffix(tmp_path: Path, name: str, kind: str) -> None:
    sheet = filled(5)
    (tmp_path / name).write_bytes(b"older")
    sheet.save(tmp_path / name)
    with Image.open(tmp_path / name) as written:
        assert written.format == kind
        assert written.size == sheet.render().size
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a.gif", SettingError, r"a\.gif: must end in \.png, \.jpg, \.jpeg; name it so"),
        ("png", SettingError, r"png: must end in"),
        ("none/a.png", InputError, r"none/a\.png: there is no folder .*none; make it"),
        ("folder.png", InputError, r"folder\.png: is no regular file"),
    ],
)
def test_a_bad_place_is_one_line(
    tmp_path: Path, name: str, kind: type[TokenReduceError], message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    for attempt in (check, filled(1).save):
        with pytest.raises(kind, match=message) as caught:
            attempt(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_no_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(InputError, match="no permission to write there; choose another folder"):
        check(tmp_path / "a.png")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left"):
        filled(1).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["a.png"]


def test_no_frame_is_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frame was used"):
        Sheet(1.0).save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_memory_is_that_of_the_pictures_kept() -> None:
    sheet = filled(300, most=16)
    assert sum(np.asarray(p.image).nbytes for p in sheet._shown()) <= 16 * AREA * 3 * 1.02


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0:00.00"),
        (-1, "0:00.00"),
        (59.999, "1:00.00"),
        (3599.994, "59:59.99"),
        (3600, "1:00:00.00"),
        (36_061.5, "10:01:01.50"),
    ],
)
def test_times_are_written_as_start_takes_them(seconds: float, written: str) -> None:
    assert clock(seconds) == written
