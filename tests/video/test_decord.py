"""decord as an option: in the same child, behind the same checks, under the same limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tokenreduce.errors import InputError, SettingError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Limits, Request

needs_decord = pytest.mark.skipif(find_spec("decord") is None, reason="decord is not installed")


@needs_decord
@pytest.mark.parametrize("wanted", [1, 7, 64])
def test_decord_gives_the_same_frames(
    wanted: int, clip: Callable[[str], Path], decoder: Decoder
) -> None:
    path = clip("gop12.mp4")
    ours = list(decoder.frames(path, Request(wanted, 48)))
    theirs = list(decoder.frames(path, Request(wanted, 48, decoder="decord")))
    assert [f.seconds for f in theirs] == pytest.approx([f.seconds for f in ours], abs=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)


@needs_decord
def test_decord_snaps_to_key_frames(clip: Callable[[str], Path], decoder: Decoder) -> None:
    path = clip("gop12.mp4")
    both = [
        [f.seconds for f in decoder.frames(path, Request(3, 48, seek="keyframe", decoder=name))]
        for name in ("pyav", "decord")
    ]
    assert both[0] == pytest.approx(both[1], abs=1e-5)


@needs_decord
def test_decord_gets_no_file_that_the_probe_refused(
    tmp_path: Path, tiny_video: Path, decoder: Decoder
) -> None:
    """decord by itself reads a playlist's target (the reason for this rule)."""
    probe = decoder.probe(tiny_video)
    path = tmp_path / "list.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tiny_video}\n#EXT-X-ENDLIST\n")
    # Even with a probe that is another file's.
    with pytest.raises(InputError, match="not a video"):
        list(decoder.frames(path, Request(2, 8, decoder="decord"), probe))


@needs_decord
def test_what_decord_cannot_read_is_one_clear_line(
    clip: Callable[[str], Path], decoder: Decoder
) -> None:
    path = clip("animation.gif")
    with pytest.raises(InputError, match="decord cannot read it; try the decoder 'pyav'"):
        list(decoder.frames(path, Request(2, 8, decoder="decord")))
    # auto is pyav, from the start.
    assert len(list(decoder.frames(path, Request(2, 8, decoder="auto")))) == 2


STUBS = {
    "raise ImportError('no decord here')": (SettingError, r"decoder 'decord'.*pip install decord"),
    "class logging:\n QUIET = 0\n set_level = staticmethod(lambda level: None)\n"
    "cpu = int\n"
    "def VideoReader(*a, **k):\n import time\n time.sleep(1000)\n": (InputError, "no progress"),
    "import os\nos.abort()": (InputError, "SIGABRT"),
}


@pytest.mark.parametrize("stub", STUBS)
def test_a_decord_that_is_missing_hangs_or_aborts(
    stub: str, tmp_path: Path, tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decord.py").write_text(stub)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    kind, says = STUBS[stub]
    begun = time.monotonic()
    with Decoder(Limits(stall_seconds=3)) as decoder:
        with pytest.raises(kind, match=says):
            list(decoder.frames(tiny_video, Request(2, 8, decoder="decord")))
        assert time.monotonic() - begun < 60
        assert len(list(decoder.frames(tiny_video, Request(2, 8)))) == 2
