"""Pictures as a model reads them: equal to transformers' LLaVA-OneVision, exact under a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
)
from transformers.image_processing_utils import select_best_resolution

from tokenreduce.budget import Layout
from tokenreduce.errors import InputError, ModelError, SettingError
from tokenreduce.images import Pictures, read_images
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.controls import Random
from tokenreduce.models.llava_config import read_spec
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import load
from tokenreduce.models.spec import Tiling
from tokenreduce.models.vision import pixel_values
from tokenreduce.stills import available, grid_of, layouts, look_at, reduce_parts
from tokenreduce.tokens import Tokens

TILE, SIDE, IMAGE_ID = 56, 4, 298
SIDES = [TILE * i for i in range(1, 7)]
PINPOINTS = [[high, wide] for high in SIDES for wide in SIDES]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SIZES = [(56, 56), (100, 40), (40, 100), (57, 170), (300, 290), (333, 60), (20, 20), (200, 336)]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@dataclass(frozen=True)
class Both:
    """transformers' own model, and ours with the very same weights."""

    stock: Any
    ours: LlavaVideo


@torch.no_grad()
def tiny(most: int) -> LlavaOnevisionForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = LlavaOnevisionConfig(
            vision_config={
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": TILE,
                "patch_size": 14,
                "vision_use_head": False,
            },
            text_config={
                "model_type": "qwen2",
                "vocab_size": 300,
                "hidden_size": 48,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 2048,
            },
            image_token_index=IMAGE_ID,
            video_token_index=299,
            image_grid_pinpoints=PINPOINTS,
            vision_aspect_ratio=f"anyres_max_{most}",
        )
        model = LlavaOnevisionForConditionalGeneration(config)
        model.train(False)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=[9, 2])
def both(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_tokenizer: Callable[..., Any],
) -> Both:
    folder, stock = tmp_path_factory.mktemp("onevision"), tiny(request.param)
    stock.save_pretrained(folder)
    make_tokenizer(300).save_pretrained(folder)
    preprocessor = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    ours = load(str(folder), device="cpu")
    assert isinstance(ours, LlavaVideo)
    return Both(stock, ours)


def image_of(size: tuple[int, int], seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8))


def read(folder: Path, both: Both, images: list[Image.Image]) -> Pictures:
    for index, image in enumerate(images):
        image.save(folder / f"{index}.png")
    return read_images([folder / f"{i}.png" for i in range(len(images))], both.ours.spec)


def processed(images: list[Image.Image]) -> Any:
    """By transformers' own processor, the pictures as those of one prompt."""
    kind: Any = LlavaOnevisionImageProcessorPil
    processor = kind(
        size={"height": TILE, "width": TILE},
        image_grid_pinpoints=PINPOINTS,
        image_mean=MEAN,
        image_std=STD,
    )
    processor.image_mean = MEAN
    return processor([images], return_tensors="pt")


def whole(both: Both, found: Pictures, budget: int = 10**9) -> Tokens:
    parts = look_at(both.ours, found.sizes, torch.from_numpy(found.pixels), frozenset())
    return reduce_parts(parts, budget, AimMerge(), both.ours.newline())


@pytest.mark.parametrize("size", SIZES)
def test_one_picture_is_read_as_transformers_reads_it(
    tmp_path: Path, both: Both, size: tuple[int, int]
) -> None:
    image = image_of(size)
    found, theirs = read(tmp_path, both, [image]), processed([image])
    pixels = pixel_values(torch.from_numpy(found.pixels), both.ours.spec)
    torch.testing.assert_close(pixels, theirs["pixel_values"][0], rtol=0, atol=2e-6)

    visual = whole(both, found)
    wanted = both.stock.model.get_image_features(
        pixel_values=theirs["pixel_values"],
        image_sizes=theirs["image_sizes"],
        batch_num_images=torch.tensor([1]),
    ).pooler_output[0]
    assert visual.count == wanted.shape[0] == available(layouts(both.ours.spec, [size]))
    torch.testing.assert_close(visual.x[0], wanted, rtol=0, atol=1e-5)
    assert visual.place.tolist() == [list(range(visual.count))]

    ids = torch.tensor([[5, 6, *[IMAGE_ID] * visual.count, 7, 8]])
    logits = both.stock(
        input_ids=ids, pixel_values=theirs["pixel_values"], image_sizes=theirs["image_sizes"]
    ).logits
    table = both.ours.host.get_input_embeddings()
    embeds = torch.cat([table(ids[:, :2]), visual.x, table(ids[:, -2:])], dim=1)
    torch.testing.assert_close(
        both.ours.host(inputs_embeds=embeds).logits, logits, rtol=0, atol=1e-4
    )


def test_several_pictures_are_read_as_transformers_reads_them(tmp_path: Path, both: Both) -> None:
    images = [image_of(size, seed) for seed, size in enumerate(SIZES[:3])]
    found, theirs = read(tmp_path, both, images), processed(images)
    pixels = pixel_values(torch.from_numpy(found.pixels), both.ours.spec)
    torch.testing.assert_close(pixels, theirs["pixel_values"][:, 0], rtol=0, atol=2e-6)
    wanted = both.stock.model.get_image_features(
        pixel_values=theirs["pixel_values"],
        image_sizes=theirs["image_sizes"],
        batch_num_images=torch.tensor([3]),
    ).pooler_output
    visual = whole(both, found)
    assert visual.count == 3 * (SIDE**2 + 1)
    torch.testing.assert_close(visual.x[0], torch.cat(list(wanted)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 2, 3, 15, 16, 40, 79, 10**6])
@pytest.mark.parametrize("site", ["frames", "clip"])
def test_any_budget_is_exact(tmp_path: Path, both: Both, budget: int, site: Any) -> None:
    found = read(tmp_path, both, [image_of((200, 111))])
    parts = look_at(both.ours, found.sizes, torch.from_numpy(found.pixels), frozenset({"keys"}))
    newline = both.ours.newline()
    total = available([part.layout for part in parts])
    left = reduce_parts(parts, budget, Random(), newline, seed=4, site=site)
    assert left.count == min(budget, total)
    assert (left.place.diff() > 0).all()
    # Random only keeps: each token is the one that stands there in the unreduced sequence.
    full = reduce_parts(parts, total, None, newline)
    assert torch.equal(left.x, full.x[:, left.place[0]])
    prompt = both.ours.prompt("What?", None, left, grid_of([part.layout for part in parts]))
    assert prompt.grid.available == total


def test_evidence_lies_as_the_features_do(tmp_path: Path, both: Both) -> None:
    """Keys of patches that the grid does not scale down, tile by tile and row by row."""
    found = read(tmp_path, both, [image_of((112, 56))])
    pixels = torch.from_numpy(found.pixels)
    base, grid = look_at(both.ours, found.sizes, pixels, frozenset({"keys", "salience"}))
    _, flat = both.ours.unpooled().look(pixels, frozenset({"keys", "salience"}))
    assert base.evidence.keys is not None
    assert grid.evidence.keys is not None
    assert grid.evidence.salience is not None
    assert flat.keys is not None
    assert flat.salience is not None
    assert torch.equal(base.evidence.keys, flat.keys[:1])
    assert grid.layout == Layout(1, 4, 8, "grid")

    def beside(values: Tensor) -> Tensor:
        left, right = (tile.unflatten(0, (4, 4)) for tile in values[1:])
        return torch.cat([left, right], dim=1).flatten(0, 1).unsqueeze(0)

    assert torch.equal(grid.evidence.keys, beside(flat.keys))
    assert torch.equal(grid.evidence.salience, beside(flat.salience))
    with pytest.raises(SettingError, match="tiles, which do not attend to each other"):
        look_at(both.ours, found.sizes, pixels, frozenset({"attention"}))


def test_a_family_without_tiles_reads_pictures_as_frames(both: Both) -> None:
    spec = replace(both.ours.spec, still="stretch", tiling=None)
    model, frames = replace(both.ours, spec=spec), torch.zeros(2, TILE, TILE, 3, dtype=torch.uint8)
    (part,) = look_at(model, [(9, 9), (5, 4)], frames, frozenset())
    assert part.layout == spec.layout(2) == grid_of([part.layout])
    assert torch.equal(part.features, model.encode(frames))


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_best_resolution_is_that_of_transformers(width: int, height: int) -> None:
    tiling = Tiling(tuple((h, w) for h, w in PINPOINTS), 9)
    best = tiling.best(width, height)
    if best is None:
        assert max(width, height) > 336 * min(width, height)
    else:
        assert best == select_best_resolution((height, width), PINPOINTS)


def test_a_thread_has_no_tiles(both: Both) -> None:
    with pytest.raises(InputError, match="too long and narrow"):
        layouts(both.ours.spec, [(4000, 1)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_aspect_ratio": "square"}, "vision_aspect_ratio is 'square'"),
        ({"image_grid_pinpoints": [[384, 380]]}, "multiples of 384"),
        ({"image_grid_pinpoints": [[384, 384 * 99]]}, "up to 16 times"),
        ({"image_grid_pinpoints": [[0, 384]]}, "multiples of 384"),
        ({"image_grid_pinpoints": "all"}, "image_grid_pinpoints .* is all"),
        ({"image_grid_pinpoints": []}, r"image_grid_pinpoints .* is \[\]"),
    ],
)
def test_another_tiling_is_refused(changes: dict[str, Any], said: str) -> None:
    text = {"model_type": "qwen2", "num_hidden_layers": 2}
    config = {"model_type": "llava_onevision", "text_config": text}
    usual = read_spec("x", config, {})
    assert usual.still == "tiles"
    assert usual.tiling is not None
    assert len(usual.tiling.resolutions) == 36
    assert available(layouts(usual, [(384, 384)])) == 729 + 27 * 28
    with pytest.raises(ModelError, match=said):
        read_spec("x", {**config, **changes}, {})
