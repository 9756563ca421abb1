"""Clips are real video files that show their scenes, and their folder can be read back."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from tokenreduce.demo import clips, scenes
from tokenreduce.demo.world import Renderer

Frames = np.ndarray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    clips.make(path, 2, 5, size=96)
    return path


def decode(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as file:
        shown = list(file.decode(video=0))
    return [f.to_ndarray(format="rgb24") for f in shown], [float(f.time or 0.0) for f in shown]


def test_a_folder_reads_back_as_it_was_made(folder: Path, tmp_path: Path) -> None:
    again = clips.make(tmp_path, 2, 5, size=96)
    read = clips.read(folder)
    assert [(c.rate, c.scene, c.questions) for c in read] == [
        (c.rate, c.scene, c.questions) for c in again
    ]
    assert [c.path for c in read] == [folder / "clip-000.mp4", folder / "clip-001.mp4"]
    for one, other in zip(clips.read(folder), again, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert (folder / clips.QUESTIONS).read_bytes() == (tmp_path / clips.QUESTIONS).read_bytes()


def test_frames_lie_at_their_times(folder: Path) -> None:
    for clip in clips.read(folder):
        _, times = decode(clip.path)
        assert len(times) == clips.frames(clip.scene, clip.rate)
        assert np.allclose(times, np.arange(len(times)) / clip.rate, atol=1e-3)


def test_the_file_shows_the_scene(folder: Path) -> None:
    clip = clips.read(folder)[0]
    shown, _ = decode(clip.path)
    renderer = Renderer(clip.scene, 96)
    for number in np.linspace(0, len(shown) - 1, 7, dtype=int):
        truth = renderer.frame(number / clip.rate).astype(float)
        error = np.mean((shown[number] - truth) ** 2) ** 0.5
        assert error < 14, f"frame {number}: root mean square error {error:.1f} of 255"


def test_lossless_keeps_every_pixel(tmp_path: Path) -> None:
    scene = scenes.sample((scenes.CLIPS, 0, 0), duration=8.0)
    path = tmp_path / "exact.mp4"
    clips.write(path, scene, 5, size=64, crf=0)
    shown, _ = decode(path)
    renderer = Renderer(scene, 64)
    assert len(shown) == 40
    for number in (0, 17, 39):
        assert np.array_equal(shown[number], renderer.frame(number / 5))


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    clips.make(tmp_path, 1, 9, size=32, on_progress=lambda *done: told.append(done))
    assert told == [(1, 1)]


def test_a_folder_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="questions"):
        clips.read(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"clip": "a"}', '"text"'])
def test_a_damaged_line_is_named(folder: Path, tmp_path: Path, line: str) -> None:
    good = (folder / clips.QUESTIONS).read_text().splitlines()[0]
    (tmp_path / clips.QUESTIONS).write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match="line 2"):
        clips.read(tmp_path)


def test_clips_of_another_world_are_refused(folder: Path, tmp_path: Path) -> None:
    row = json.loads((folder / clips.QUESTIONS).read_text().splitlines()[0])
    (tmp_path / clips.QUESTIONS).write_text(json.dumps({**row, "world": 0}))
    with pytest.raises(ValueError, match="world 0"):
        clips.read(tmp_path)
