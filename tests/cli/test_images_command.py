"""Pictures through the whole command: answers of the demo model, JSON, one line for bad ones."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from tokenreduce.demo import world
from tokenreduce.demo.world import Look, Scene, Thing

Run = Callable[..., Result]
DEMO = ("--model", "demo")
COLOURS = [{"circle": "yellow", "cross": "blue"}, {"square": "red", "star": "green"}]


def frame_of(colours: dict[str, str], side: int = 192) -> Image.Image:
    """One frame of the demo model's world: two things on a quiet ground."""
    look = Look(key=(3,), grey=0.3, gain=1.0, offset=(0.0, 0.0, 0.0), softness=0.7, noise=0.03)
    places = [(16.0, 44.0), (44.0, 18.0)]
    things = tuple(
        Thing(shape, colour, 9.0, place, place, "still", 0.0, 5.0, 0.0, 10.0)
        for (shape, colour), place in zip(colours.items(), places, strict=True)
    )
    return Image.fromarray(world.render(Scene(10.0, things, (), look), [2.0], side)[0])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, colours in zip(("a.png", "b.png"), COLOURS, strict=True):
        frame_of(colours).save(folder / name)
    return [str(folder / "a.png"), str(folder / "b.png")]


def test_the_demo_model_answers_about_a_frame_of_its_world(run: Run, pictures: list[str]) -> None:
    for shape, colour in COLOURS[0].items():
        done = run("ask", pictures[0], f"What colour is the {shape}?", *DEMO, "--quiet")
        assert (done.exit_code, done.stdout, done.stderr) == (0, f"{colour}\n", "")


def test_about_several_pictures(run: Run, pictures: list[str]) -> None:
    for colours in COLOURS:
        for shape, colour in colours.items():
            done = run("ask", *pictures, f"What colour is the {shape}?", *DEMO, "--quiet")
            assert done.stdout == f"{colour}\n"


def test_the_question_may_be_piped_in(run: Run, pictures: list[str]) -> None:
    asked = "What colour is the circle?\n"
    assert run("ask", pictures[0], *DEMO, "--quiet", stdin=asked).stdout == "yellow\n"
    assert run("ask", *pictures, "-", *DEMO, "--quiet", stdin=asked).stdout == "yellow\n"


def test_the_object_tells_of_each_picture(run: Run, pictures: list[str], tmp_path: Path) -> None:
    wide = tmp_path / "wide.JPG"
    frame_of(COLOURS[1]).resize((300, 200)).save(wide)
    options = (*DEMO, "--budget", "20", "--json", "--frames", "9", "--seek", "exact", "--time-text")
    done = run("ask", str(wide), pictures[0], "What colour is the circle?", *options)
    found = json.loads(done.stdout)
    assert found["images"] == [
        {"path": str(wide), "width": 300, "height": 200},
        {"path": pictures[0], "width": 192, "height": 192},
    ]
    video = {"path": str(wide), "seconds": 0, "width": 300, "height": 200, "fps": 0}
    assert found["video"] == {**video, "codec": "jpeg"}
    assert found["frames"]["requested"] == found["frames"]["decoded"] == 2
    assert found["frames"]["seconds"] == found["frames"]["until"] == []
    assert (found["tokens"]["raw"], found["tokens"]["merged"]) == (84, 20)
    warning = "--frames, --seek, --time-text: only for videos, of no effect on pictures"
    assert found["warnings"] == [warning]
    assert f"warning: {warning}\n" in done.stderr


def test_the_cost_table_counts_pictures(run: Run, pictures: list[str]) -> None:
    done = run("ask", *pictures, "What colour is the circle?", *DEMO)
    assert "pictures       2: 192 x 192, 192 x 192\n" in done.stderr
    assert "frames" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


def test_compare_on_pictures(run: Run, pictures: list[str]) -> None:
    options = (*DEMO, "--methods", "aim,fastv,tome", "--mean-budgets", "40", "--presets", "fast")
    question = "What colour is the star?"
    done = run("compare", *pictures, question, *options, "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    rows = {row["label"]: row for row in json.loads(done.stdout)["rows"]}
    wanted = ["full, 2 pictures", "fast", "aim mean 40", "fastv mean 40", "tome mean 40"]
    assert list(rows) == wanted
    assert rows["full, 2 pictures"]["answer"] == "green"
    assert "--frames: only for videos" not in done.stderr
    warned = run("compare", *pictures, question, *options, "--frames", "9")
    assert warned.stderr.count("warning: --frames: only for videos") == 1
    assert all(36 <= rows[label]["mean_visual_tokens"] <= 40 for label in wanted[2:])


def bomb(side: int) -> bytes:
    """A PNG that claims side x side pixels and holds next to none."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def truncated(name: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, name)
    return file.getvalue()[: len(file.getvalue()) // 2]


BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "text": ("a.jpg", lambda: b"just text\n" * 9, "is no picture that can be read"),
    "empty": ("a.png", lambda: b"", "is empty"),
    "huge": ("a.png", lambda: bomb(60_000), "allowed"),
    "half a JPEG": ("a.jpg", lambda: truncated("JPEG"), "damaged"),
    "half a PNG": ("a.png", lambda: truncated("PNG"), "damaged"),
    "a picture called a video": ("a.mp4", lambda: truncated("PNG"), "damaged"),
}


def refusal(done: Result) -> str:
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", ["ask", "compare"])
def test_bad_pictures_are_one_line(
    run: Run, pictures: list[str], tmp_path: Path, kind: str, command: str
) -> None:
    name, content, says = BAD[kind]
    path = tmp_path / name
    path.write_bytes(content())
    for files in ([str(path)], [pictures[0], str(path)]):
        line = refusal(run(command, *files, "Q", *DEMO, "--quiet"))
        assert name in line
        if kind != "empty" or len(files) == 1:
            assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{a}", "{video}", "Q"], "is no picture; give one video, or only pictures"),
        (["{video}", "{video}", "Q"], "is no picture; give one video, or only pictures"),
        (["{a}", "missing.png", "Q"], "missing.png: no such file; several files are pictures"),
        (["{video}", "what", "colour"], "and the question is one argument in quotes|is no picture"),
        (["{a}", "{b}"], "is a picture, where the question should be"),
        (["missing.png", "Q"], "missing.png: no such file"),
        (["{folder}", "{a}", "Q"], "is a directory"),
        (["{a}", "Q", "--method", "fewer-frames"], "pictures are all wanted"),
        (["{a}", "Q", "--method", "fastv", "--budget", "9"], "or fewer pictures"),
        (["{a}", "Q", "--max-new-tokens", "8190"], "exceed the 8192 that demo can hold"),
    ],
)
def test_what_cannot_be_asked(
    run: Run, pictures: list[str], tiny_video: Path, arguments: list[str], says: str
) -> None:
    names: dict[str, Any] = {"a": pictures[0], "b": pictures[1], "video": tiny_video}
    names["folder"] = tiny_video.parent
    given = [argument.format(**names) for argument in arguments]
    assert re.search(says, refusal(run("ask", *given, *DEMO, "--quiet")))
