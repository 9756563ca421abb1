"""Folders as people keep them, and as somebody means harm."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch.walking import VIDEO_EXTENSIONS, Passed, natural, taker, walk
from tokenreduce.errors import SettingError


def names(folder: Path | str, *patterns: str, passed: Passed | None = None) -> list[str]:
    """What is found below `folder`, relative to it."""
    found = walk(str(folder), taker(patterns), set(), passed or Passed())
    return [one.name for one in found]


def touch(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_people_count(tmp_path: Path) -> None:
    touch(
        tmp_path, "clip10.mp4", "clip2.mp4", "Clip1.mp4", "b/x.mp4", "b2.mp4", "B10/y.mp4", "a.mp4"
    )
    assert names(tmp_path) == [
        *("a.mp4", "b/x.mp4", "b2.mp4", "B10/y.mp4", "Clip1.mp4", "clip2.mp4", "clip10.mp4")
    ]


@given(st.lists(st.text("aA01²٣.", max_size=6), unique=True))
def test_any_names_have_one_order(given_names: list[str]) -> None:
    backwards = given_names[::-1]
    assert sorted(backwards, key=natural) == sorted(given_names, key=natural)
    assert len({natural(one) for one in given_names}) == len(given_names)


def test_numbers_of_any_length_sort() -> None:
    assert natural("9" * 200) < natural("1" + "0" * 200)


def test_videos_by_extension_and_nothing_hidden(tmp_path: Path) -> None:
    wanted = [f"{number}.{one}" for number, one in enumerate(VIDEO_EXTENSIONS)]
    touch(tmp_path, *wanted, "upper.MP4", "a.txt", "b.jpg", "mp4", "c.gif", "d.mp4.part")
    touch(tmp_path, ".hidden.mp4", "._clip.mp4", ".cache/x.mp4", "no/.cache/x.mp4")
    passed = Passed()
    assert names(tmp_path, passed=passed) == [*wanted, "upper.MP4"]
    assert passed.others == 5
    assert passed.other == str(tmp_path / "a.txt")
    assert passed.unreadable == []
    assert passed.dangling == 0


def test_patterns_replace_the_extensions(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.gif", "c.GIF", "sub/cam1_d.mkv", "cam1_no", ".e.gif", "[x].mp4")
    assert names(tmp_path, "*.gif") == ["b.gif", "c.GIF"]
    assert names(tmp_path, "*.gif", "cam?_*") == ["b.gif", "c.GIF", "cam1_no", "sub/cam1_d.mkv"]
    assert names(tmp_path, "[[]x].mp4") == ["[x].mp4"]
    assert names(tmp_path, "[") == []
    assert names(tmp_path, "*") == [
        "[x].mp4",
        "a.mp4",
        "b.gif",
        "c.GIF",
        "cam1_no",
        "sub/cam1_d.mkv",
    ]


@pytest.mark.parametrize("pattern", ["", "sub/*.mp4", "/"])
def test_a_pattern_that_no_name_can_match(pattern: str) -> None:
    with pytest.raises(SettingError, match="without its folder") as caught:
        taker(("*.mp4", pattern))
    assert len(str(caught.value).splitlines()) == 1


def test_hostile_names_survive(tmp_path: Path) -> None:
    hostile = [
        "a\nb.mp4",
        "-rf.mp4",
        "\x1b[31m.mp4",
        "bad\udcff.mp4",
        "'\"$(x).mp4",
        " .mp4",
        "é.mp4",
    ]
    hostile += ["e\u0301.mp4", "\u202e4pm.mp4", "x" * 251 + ".mp4", "a\\b.mp4", "~.mp4", "日本.mp4"]
    touch(tmp_path, *hostile, "bad\udcfe/-\n.mp4")
    found = list(walk(str(tmp_path), taker(()), set(), Passed()))
    assert {one.name for one in found} == {*hostile, "bad\udcfe/-\n.mp4"}
    assert all(os.path.isfile(one.path) for one in found)


def test_a_linked_file_counts_a_linked_folder_once(tmp_path: Path) -> None:
    touch(tmp_path, "clips/real/a.mp4", "away/b.mp4", "away/c.mp4")
    clips = tmp_path / "clips"
    (clips / "0_link").symlink_to("real")  # sorts before what it leads to
    (clips / "1_away").symlink_to(tmp_path / "away")
    (clips / "2_away").symlink_to(tmp_path / "away")
    (clips / "z.mp4").symlink_to(tmp_path / "away/c.mp4")
    assert names(clips) == ["real/a.mp4", "z.mp4", "1_away/b.mp4", "1_away/c.mp4"]


def test_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/x.mp4", "y.mp4")
    (tmp_path / "a/b/up").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "a/b/there").symlink_to(tmp_path / "a")
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    passed = Passed()
    assert names(tmp_path, passed=passed) == ["a/b/x.mp4", "y.mp4"]
    assert passed.dangling == 2
    assert names(tmp_path / "a/b/up") == ["a/b/x.mp4", "y.mp4"]


def test_folders_already_walked_are_not_walked_again(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "b/y.mp4")
    seen: set[Hashable] = set()
    inner = list(walk(str(tmp_path / "b"), taker(()), seen, Passed()))
    outer = list(walk(str(tmp_path), taker(()), seen, Passed()))
    assert [one.name for one in inner + outer] == ["y.mp4", "a/x.mp4"]


def test_pipes_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    touch(tmp_path, "a.mp4")
    passed = Passed()
    assert names(tmp_path, passed=passed) == ["a.mp4"]
    assert passed.dangling == 1


def test_hard_links_are_two_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    os.link(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert names(tmp_path) == ["a.mp4", "b.mp4"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "b/y.mp4")
    (tmp_path / "a").chmod(0)
    passed = Passed()
    try:
        assert names(tmp_path, passed=passed) == ["b/y.mp4"]
    finally:
        (tmp_path / "a").chmod(0o700)
    assert passed.unreadable == [(str(tmp_path / "a"), "Permission denied")]


def test_a_folder_deeper_than_a_path_can_be_is_told(tmp_path: Path) -> None:
    """One that cannot be read even by root."""
    touch(tmp_path, "y.mp4")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    passed = Passed()
    assert names(tmp_path, passed=passed) == ["y.mp4"]
    ((path, reason),) = passed.unreadable
    assert path.endswith("/" + "d" * 250)
    assert reason == "File name too long"


def test_a_folder_that_is_not_there_is_told() -> None:
    passed = Passed()
    assert names("/no/such/folder", passed=passed) == []
    assert passed.unreadable == [("/no/such/folder", "No such file or directory")]


def test_twenty_thousand_files(tmp_path: Path) -> None:
    for number in range(20_000):
        os.close(os.open(tmp_path / f"clip{number}.mp4", os.O_CREAT | os.O_WRONLY))
    begin = time.process_time()
    found = names(tmp_path)
    seconds = time.process_time() - begin
    assert found == [f"clip{number}.mp4" for number in range(20_000)]
    assert seconds < 2  # a fifth of a second; the rest is for a busy machine


def test_many_folders_below_each_other_and_beside(tmp_path: Path) -> None:
    deep = "/".join(["deep"] * 400)
    touch(tmp_path, f"{deep}/x.mp4", *(f"day{number}/x.mp4" for number in range(300)))
    assert names(tmp_path) == [*(f"day{number}/x.mp4" for number in range(300)), f"{deep}/x.mp4"]
