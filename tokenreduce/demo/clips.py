"""Writes clips of the toy world as real H.264 files, with their questions and true answers.

A folder of clips is `clip-000.mp4`, ... and `questions.jsonl`, one question a line. The line names
the scene's key, so `read` rebuilds the scene and `questions.answerable` can be asked of any
sampling of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tokenreduce.demo import questions, scenes
from tokenreduce.demo.questions import Question
from tokenreduce.demo.world import VERSION, Renderer, Scene

if TYPE_CHECKING:
    from av.video.stream import VideoStream

SIZE = 192  # pixels along an edge of a clip: twice what the model sees, quick to film
CRF = 23  # H.264 quality; 0 is lossless
RATES = (10, 12, 15, 20, 25)  # frames a second
QUESTIONS = "questions.jsonl"


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a folder with everything that is true of it."""

    path: Path
    rate: int
    scene: Scene
    questions: tuple[Question, ...]


def draw(seed: int, index: int) -> tuple[Scene, int, tuple[Question, ...]]:
    """The scene, frame rate and questions of clip `index` of the set `seed`."""
    scene = scenes.sample((scenes.CLIPS, seed, index))
    rng = np.random.default_rng((VERSION, scenes.CLIPS, seed, index, 1))
    return scene, int(rng.choice(RATES)), tuple(questions.ask(scene, rng))


def write(path: Path, scene: Scene, rate: int, *, size: int = SIZE, crf: int = CRF) -> None:
    """Films a scene. `crf` 0 keeps every pixel: RGB, without the loss of colour subsampling."""
    import av  # here, so that drawing scenes needs no decoder

    lossless = crf == 0
    with av.open(str(path), "w") as file:
        codec = "libx264rgb" if lossless else "libx264"
        stream = cast("VideoStream", file.add_stream(codec, rate=Fraction(rate)))
        stream.width = stream.height = size
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.gop_size = 2 * rate
        stream.options = {
            "crf": str(crf),
            "preset": "ultrafast" if lossless else "veryfast",
            # x264's assembly decides differently from run to run: other bytes for the same seed.
            "x264-params": "no-asm=1:threads=1",
        }
        renderer = Renderer(scene, size)
        for number in range(frames(scene, rate)):
            picture = av.VideoFrame.from_ndarray(renderer.frame(number / rate), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def frames(scene: Scene, rate: int) -> int:
    """How many frames a clip of the scene has."""
    return max(round(scene.duration * rate), 1)


def make(
    folder: Path,
    clips: int,
    seed: int,
    *,
    crf: int = CRF,
    size: int = SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Clip]:
    """Writes `clips` clips of the set `seed` and their questions into a folder.

    `on_progress(done, of)` is called after each clip. Questions are written last, so a folder
    that has them is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    lines = []
    for index in range(clips):
        scene, rate, asked = draw(seed, index)
        path = folder / f"clip-{index:03d}.mp4"
        write(path, scene, rate, size=size, crf=crf)
        made.append(Clip(path, rate, scene, asked))
        for question in asked:
            where = {"clip": path.name, "world": VERSION, "seed": seed, "index": index}
            lines.append(json.dumps({**where, **asdict(question)}))
        if on_progress is not None:
            on_progress(index + 1, clips)
    (folder / QUESTIONS).write_text("".join(f"{line}\n" for line in lines))
    return made


def read(folder: Path) -> list[Clip]:
    """The clips of a folder that `make` wrote, with their scenes rebuilt."""
    path = folder / QUESTIONS
    if not path.is_file():
        raise ValueError(f"{folder} holds no {QUESTIONS}; make one with `tokenreduce demo make`")
    asked: dict[tuple[str, int, int], list[Question]] = {}
    for key, question in _lines(path):
        asked.setdefault(key, []).append(question)
    clips = []
    for (name, seed, index), found in asked.items():
        scene, rate, _ = draw(seed, index)
        clips.append(Clip(folder / name, rate, scene, tuple(found)))
    return clips


def _lines(path: Path) -> Iterator[tuple[tuple[str, int, int], Question]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            key = (str(row["clip"]), int(row["seed"]), int(row["index"]))
            question = Question(
                kind=str(row["kind"]),
                text=str(row["text"]),
                answer=str(row["answer"]),
                things=tuple(int(i) for i in row["things"]),
                stars=tuple(int(i) for i in row["stars"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a question of a clip") from error
        if row.get("world") != VERSION:
            raise ValueError(
                f"{path}, line {number}: made by world {row.get('world')}, this is {VERSION}"
            )
        yield key, question
