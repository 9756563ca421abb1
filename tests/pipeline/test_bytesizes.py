"""Sizes of memory as people write them, and what is no size."""

from __future__ import annotations

import pytest

from tokenreduce.bytesizes import parse
from tokenreduce.errors import SettingError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 * 2**30),
        ("12", 12 * 2**30),
        ("7.5 gib", 15 * 2**29),
        ("8GB", 8 * 10**9),
        ("900MiB", 900 * 2**20),
        ("900mb", 900 * 10**6),
        ("900M", 900 * 2**20),
        ("12G", 12 * 2**30),
        (" 12  GiB ", 12 * 2**30),
        ("0.5TiB", 2**39),
        ("2 t", 2**41),
        ("1TB", 10**12),
        ("0.5PB", 5 * 10**14),
        ("1 PiB", 2**50),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "-1",
        "1e3",
        "GiB",
        "12GiBs",
        "1 2",
        "12 B",
        "0.0000000001",
        "٣",
        "nan",
        "9999999",
        "1.1PiB",
    ],
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="give a size such as 12GiB"):
        parse(text)
