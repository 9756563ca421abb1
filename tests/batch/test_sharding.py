"""Every file belongs to exactly one shard, and all machines agree which."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch.sharding import MOST_SHARDS, Shard
from tokenreduce.errors import SettingError

# As the file system gives them: any bytes but zero and the slash.
NAMES = st.binary(min_size=1, max_size=40).map(
    lambda data: os.fsdecode(data.translate(None, b"\0/") or b"x")
)


@given(NAMES, st.integers(1, 40))
def test_exactly_one_shard_takes_a_name(name: str, of: int) -> None:
    assert sum(Shard(number, of).takes(name) for number in range(1, of + 1)) == 1


def test_shards_are_about_equal() -> None:
    names = [f"day{day}/clip{clip:05d}.mp4" for day in range(10) for clip in range(400)]
    sizes = [sum(Shard(number, 8).takes(name) for name in names) for number in range(1, 9)]
    assert sum(sizes) == 4000
    assert max(sizes) < 1.15 * min(sizes)


def test_the_shard_of_a_name_stays_what_it_is() -> None:
    """Another split would ask again whatever was asked before an upgrade."""
    names = ("a.mp4", "sub/clip2.mp4", "bad\udcff.mp4", "x\ny.mkv")
    taken = [[n for n in range(1, 9) if Shard(n, 8).takes(name)] for name in names]
    assert taken == [[3], [2], [7], [7]]


def test_another_process_agrees() -> None:
    """Python's own hash of text differs from process to process."""
    names = [f"clip{at}.mp4" for at in range(50)]
    code = (
        "import sys; from tokenreduce.batch.sharding import Shard;"
        "print([Shard(2, 3).takes(one) for one in sys.argv[1:]])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, *names],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == str([Shard(2, 3).takes(one) for one in names])


def test_written_as_it_is_read() -> None:
    assert Shard.parse("2/8") == Shard(2, 8)
    assert Shard.parse(" 8/8 ") == Shard(8, 8)
    assert str(Shard(2, 8)) == "2/8"
    assert Shard.parse(f"{MOST_SHARDS}/{MOST_SHARDS}").of == MOST_SHARDS


@pytest.mark.parametrize(
    "text",
    [
        *("0/8", "9/8", "a/b", "2/0", "", "2", "2/", "/8", "-1/8", "1/8/2", "1.5/8", "1 / 8"),
        *("٢/٨", "1/1000001", "1/" + "9" * 5000),
    ],
)
def test_a_bad_shard_is_one_line(text: str) -> None:
    with pytest.raises(SettingError, match="such as 2/8") as caught:
        Shard.parse(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 250
