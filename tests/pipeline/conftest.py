"""Tiny random checkpoints of the families that read pictures in their own ways, and pictures."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenreduce.models.base import VideoModel
from tokenreduce.models.load import load

MODELS = Path(__file__).parents[1] / "models"

Draw = Callable[..., Path]


@pytest.fixture(scope="session")
def demo() -> VideoModel:
    return load("demo", device="cpu")


@pytest.fixture(scope="session")
def llava15(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    """CLIP of 5 x 5 patches and three layers that are used, Vicuna of four."""
    made: dict[str, Any] = runpy.run_path(str(MODELS / "test_llava15.py"))
    folder = tmp_path_factory.mktemp("llava15")
    made["write"](folder, made["tiny"](), "saved")
    return load(str(folder), device="cpu")


@pytest.fixture(scope="session")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    """SigLIP of 4 x 4 patches, pictures in tiles of 56 pixels."""
    made: dict[str, Any] = runpy.run_path(str(MODELS / "test_stills.py"))
    tokenizer = runpy.run_path(str(MODELS / "conftest.py"))["byte_tokenizer"]
    folder = tmp_path_factory.mktemp("onevision")
    made["tiny"](9).save_pretrained(folder)
    tokenizer(300).save_pretrained(folder)
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return load(str(folder), device="cpu")


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Writes a picture of noise."""

    def write(width: int, height: int, name: str = "a.png", seed: int = 0) -> Path:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        return tmp_path / name

    return write
