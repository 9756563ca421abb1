"""The embedded model answers about a picture: one frame of its world, read from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tokenreduce.demo import world
from tokenreduce.demo.world import Look, Scene, Thing
from tokenreduce.engine.types import Sampling
from tokenreduce.images import read_images
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.models.base import VideoModel
from tokenreduce.models.load import load
from tokenreduce.stills import grid_of, layouts, look_at, reduce_parts


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load("demo", device="cpu")


@pytest.mark.parametrize("budget", [42, 21])
def test_colours_of_things_in_a_picture(tmp_path: Path, model: VideoModel, budget: int) -> None:
    look = Look(key=(3,), grey=0.3, gain=1.0, offset=(0.0, 0.0, 0.0), softness=0.7, noise=0.03)
    wanted = {"circle": "yellow", "cross": "blue"}
    places = [(16.0, 44.0), (44.0, 18.0)]
    things = tuple(
        Thing(shape, color, 9.0, place, place, "still", 0.0, 5.0, 0.0, 10.0)
        for (shape, color), place in zip(wanted.items(), places, strict=True)
    )
    path = tmp_path / "a.png"
    frame = world.render(Scene(10.0, things, (), look), [2.0], model.spec.vision.image_size)[0]
    Image.fromarray(frame).save(path)

    found = read_images([path], model.spec)
    parts = look_at(model, found.sizes, torch.from_numpy(found.pixels), frozenset())
    visual = reduce_parts(parts, budget, AimMerge(), model.newline())
    assert visual.count == budget
    for shape, color in wanted.items():
        question = f"What colour is the {shape}?"
        grid = grid_of(layouts(model.spec, found.sizes))
        prompt = model.prompt(question, None, visual, grid)
        made = model.generate(prompt, (), Sampling(8), lambda _: None, lambda _: None)
        assert made.text == color
