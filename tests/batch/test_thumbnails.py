"""Thumbnails: of the file that was asked about and of no other, made once, kept if it can be."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.ledger_shelf import LedgerShelf
from tokenreduce.batch.lock import Lock
from tokenreduce.batch.thumbnails import HEIGHT, WIDTH, Thumbnails, is_still, jpeg
from tokenreduce.cache.digest import FileState, of_file

EARLY, LATE = "2001-01-01T00:00:00.000Z", "2101-01-01T00:00:00.000Z"


class Shelf:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def thumbnail(self, content: str, /) -> bytes | None:
        return self.kept.get(content)

    def keep_thumbnail(self, content: str, jpeg: bytes, /) -> None:
        self.kept[content] = jpeg


class Memo:
    """Knows one digest for whatever it is asked."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def recall(self, state: FileState, /) -> str | None:
        return self.digest

    def remember(self, state: FileState, value: str, /) -> None: ...


def digest(path: Path) -> str:
    found = of_file(path)
    assert found is not None
    return found.value


def size(data: bytes | None) -> tuple[int, int]:
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "JPEG"
        return image.size


def test_a_frame_is_decoded_once_and_kept(tiny_video: Path) -> None:
    shelf, content = Shelf(), digest(tiny_video)
    with Thumbnails(shelf) as made:
        first = made.of(content, [str(tiny_video)], EARLY)
        assert size(first) == (160, 107)  # of 96 x 64
        assert made.of(content, [], EARLY) == first
    assert shelf.kept == {content: first}
    assert first is not None
    assert len(first) < 8192


def test_the_middle_is_shown(tiny_video: Path) -> None:
    """Of two seconds at 30 frames a second with a key frame every 12: the one at 24."""
    with Thumbnails(Shelf()) as made:
        data = made.of(digest(tiny_video), [str(tiny_video)], EARLY)
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        blue = np.asarray(image.convert("RGB"))[..., 2].mean()
    assert blue == pytest.approx(17 * 24 % 256, abs=25)  # those before and after: 204, 100


def test_another_file_at_the_same_place_gives_none(
    tiny_video: Path, write_clip: Callable[..., Path], tmp_path: Path
) -> None:
    content = digest(tiny_video)
    other = write_clip(tmp_path / "other.mp4", frames=5)
    shelf = Shelf()
    with Thumbnails(shelf) as made:
        assert made.of(content, [str(other), str(tmp_path / "gone.mp4")], EARLY) is None
        assert shelf.kept == {}
        # Its own name of old, another's now; it lives on under a new one.
        assert size(made.of(content, [str(other), str(tiny_video)], EARLY)) == (160, 107)


def test_what_is_no_video_gives_none(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    names = [str(tmp_path / name) for name in ("text.mp4", "empty.mp4", "pipe.mp4", ".", "\x00")]
    with Thumbnails(Shelf()) as made:
        for name in names:
            assert made.of("c" * 64, [name], LATE) is None
            assert made.of("c" * 64, [name], EARLY) is None


def test_one_child_decodes_them_all_and_does_not_stay(
    tiny_video: Path, write_clip: Callable[..., Path], tmp_path: Path
) -> None:
    other = write_clip(tmp_path / "other.mp4", frames=5)
    with Thumbnails(Shelf()) as made:
        pids = set()
        for path in (tiny_video, other):
            assert made.of(digest(path), [str(path)], EARLY) is not None
            pids.add(made._decoder.pid)
        (pid,) = pids
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_file_unchanged_since_it_was_asked_is_believed_without_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a")
    assert is_still(str(path), "any", LATE, None)
    assert not is_still(str(path), "any", EARLY, None)
    assert is_still(str(path), digest(path), EARLY, None)
    assert is_still(str(path), "known", EARLY, Memo("known"))
    assert not is_still(str(path), "known", "no time", Memo("another"))
    assert not is_still(str(tmp_path / "gone"), "any", LATE, None)


def test_one_changed_within_the_clocks_difference_is_digested(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a")
    soon = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + 1))
    assert not is_still(str(path), "another", soon, None)


@pytest.mark.parametrize(
    ("aspect", "wanted"),
    [
        (16 / 9, (160, 90)),
        (4 / 3, (160, 120)),
        (9 / 16, (68, 120)),
        (100.0, (160, 20)),
        (0.0, (15, 120)),
    ],
)
def test_the_shape_of_the_video_stays(aspect: float, wanted: tuple[int, int]) -> None:
    made = size(jpeg(np.zeros((320, 320, 3), np.uint8), aspect))
    assert made == wanted
    assert made[0] <= WIDTH
    assert made[1] <= HEIGHT


def test_the_ledger_keeps_them_under_the_lock(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    Ledger.create(ledger_of(out)).close()
    with Ledger.open(ledger_of(out), readonly=True) as ledger:
        with LedgerShelf(str(out), ledger) as shelf:
            shelf.keep_thumbnail("c", b"jpeg")
            assert shelf.thumbnail("c") == b"jpeg"
            assert ledger.thumbnail("c") is None  # not yet
        assert ledger.thumbnail("c") == b"jpeg"
        with Lock.take(out), LedgerShelf(str(out), ledger) as shelf:
            shelf.keep_thumbnail("d", b"jpeg")
        assert ledger.thumbnail("d") is None
    assert not (tmp_path / "out.jsonl.lock").exists()


def test_many_are_kept_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenreduce.batch.ledger_shelf.TOGETHER", 2)
    out = tmp_path / "out.jsonl"
    Ledger.create(ledger_of(out)).close()
    with (
        Ledger.open(ledger_of(out), readonly=True) as ledger,
        LedgerShelf(str(out), ledger) as shelf,
    ):
        for content in ("a", "b", "c"):
            shelf.keep_thumbnail(content, b"jpeg")
        assert [ledger.thumbnail(content) for content in "abc"] == [b"jpeg", b"jpeg", None]
        assert shelf.thumbnail("a") == b"jpeg"
