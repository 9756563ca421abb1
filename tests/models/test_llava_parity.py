"""Equality with the official LLaVA-NeXT code, from bytes to greedy tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenreduce.budget import Layout, Newline
from tokenreduce.engine.types import Prompt, Sampling
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import load
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.vision import pixel_values
from tokenreduce.tokens import Tokens

CASES = [("tinyA", "F4_60x90"), ("tinyA", "F8_48x48"), ("full27", "F2_120x160")]
VARIANTS: list[tuple[str, Newline]] = [
    ("bilinear", "frame"),
    ("bilinear", "one_token"),
    ("bilinear", "no_token"),
    ("average", "grid"),
    ("max", "grid"),
]


@pytest.fixture(scope="module")
def models(make_checkpoint: Callable[[str], Path]) -> dict[str, LlavaVideo]:
    loaded = {}
    for name in ("tinyA", "full27"):
        model = load(str(make_checkpoint(name)), device="cpu")
        assert isinstance(model, LlavaVideo)
        loaded[name] = model
    return loaded


@pytest.fixture(scope="module")
def values(golden: Path) -> dict[str, dict[str, Tensor]]:
    return {name: load_file(golden / name / "cases.safetensors") for name in ("tinyA", "full27")}


def frames_of(values: dict[str, Tensor], case: str) -> Tensor:
    return values[f"{case}/resized_uint8"].permute(0, 2, 3, 1).contiguous()


def woven(model: LlavaVideo, features: Tensor) -> Tensor:
    """The sequence of an unreduced model, written from the golden rule alone: (n, d)."""
    newline, side, rule = model.newline(), model.spec.side, model.spec.newline
    rows: list[Tensor] = []
    for frame in features:
        if rule == "grid":
            assert newline is not None
            for row in frame.view(side, side, -1):
                rows += [*row, newline]
        else:
            rows += [*frame]
            if rule == "frame":
                assert newline is not None
                rows.append(newline)
    if rule == "one_token":
        assert newline is not None
        rows.append(newline)
    return torch.stack(rows)


def embeds_of(model: LlavaVideo, ids: Tensor, visual: Tensor) -> Tensor:
    """(1, l, d): the golden input ids with `visual` in the place of -200."""
    table = model.host.get_input_embeddings()
    at = int((ids == -200).nonzero())
    return torch.cat([table(ids[:at].long()), visual, table(ids[at + 1 :].long())]).unsqueeze(0)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["f2_33x77_to98", "f3_120x90_to56"])
def test_pixel_values_are_the_official_ones_bit_for_bit(
    golden: Path, models: dict[str, LlavaVideo], case: str
) -> None:
    stored = load_file(golden / "pixel_values.safetensors")
    frames = stored[f"{case}/resized_uint8"].permute(0, 2, 3, 1)
    spec = models["tinyA"].spec
    vision = dataclasses.replace(spec.vision, image_size=frames.shape[1])
    found = pixel_values(frames, dataclasses.replace(spec, vision=vision))
    assert torch.equal(found, stored[f"{case}/pixel_values"])


@torch.no_grad()
@pytest.mark.parametrize(("name", "case"), CASES)
def test_features_are_the_official_ones(
    models: dict[str, LlavaVideo], values: dict[str, dict[str, Tensor]], name: str, case: str
) -> None:
    model, want = models[name], values[name]
    frames = frames_of(want, case)
    seen = model.see(pixel_values(frames, model.spec))
    close(seen, want[f"{case}/vision_out"], 1e-4)
    close(model.project(seen), want[f"{case}/projector_out"], 1e-4)
    pooled = model.encode(frames)
    close(pooled, want[f"{case}/pooled"], 1e-4)
    close(woven(model, pooled), want[f"{case}/with_newline"], 1e-4)


@torch.no_grad()
def test_every_vision_layer_is_the_official_one(
    models: dict[str, LlavaVideo], values: dict[str, dict[str, Tensor]]
) -> None:
    model, want, case = models["tinyA"], values["tinyA"], "F4_60x90"
    tower = model.host.model.vision_tower
    hidden = tower.embeddings(pixel_values(frames_of(want, case), model.spec))
    close(hidden, want[f"{case}/vision_embeddings"], 1e-4)
    assert len(tower.encoder.layers) == 2
    for index, layer in enumerate(tower.encoder.layers):
        hidden = layer(hidden, attention_mask=None)
        close(hidden, want[f"{case}/vision_layer{index}"], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("name", "case"), CASES)
def test_logits_and_greedy_tokens_are_the_official_ones(
    models: dict[str, LlavaVideo], values: dict[str, dict[str, Tensor]], name: str, case: str
) -> None:
    model, want = models[name], values[name]
    visual = woven(model, model.encode(frames_of(want, case)))
    embeds = embeds_of(model, want[f"{case}/input_ids"], visual)
    close(embeds, want[f"{case}/inputs_embeds"], 1e-4)
    logits = model.host(inputs_embeds=embeds).logits[0]
    if f"{case}/logits_all" in want:
        close(logits, want[f"{case}/logits_all"], 1e-3)
    else:
        close(logits[-32:], want[f"{case}/logits_last32"], 1e-3)
    host: Any = model.host
    tokens = host.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=8,
        do_sample=False,
    )
    assert tokens[0].tolist() == want[f"{case}/gen_tokens"].tolist()


@pytest.mark.parametrize(("name", "case"), CASES)
def test_generate_gives_the_official_tokens_as_text(
    models: dict[str, LlavaVideo], values: dict[str, dict[str, Tensor]], name: str, case: str
) -> None:
    model, want = models[name], values[name]
    ids, embeds = want[f"{case}/input_ids"], want[f"{case}/inputs_embeds"]
    first = int((ids == -200).nonzero())
    n = embeds.shape[1] - ids.shape[0] + 1
    visual = Tokens.fresh(embeds[:, first : first + n])
    prompt = Prompt(embeds, torch.arange(first, first + n), visual, Layout(1, 1, n))
    pieces: list[str] = []
    times: list[float] = []
    made = model.generate(prompt, (), Sampling(8), pieces.append, times.append)
    assert made.text == "".join(pieces) == model.chat.text_of(want[f"{case}/gen_tokens"].tolist())
    assert made.tokens == 8
    assert made.finish_reason == "length"
    assert made.per_layer == (n,) * model.spec.text.layers
    assert times == [made.prefill_seconds]


@torch.no_grad()
@pytest.mark.parametrize(("pool", "newline"), VARIANTS)
def test_every_pool_mode_and_newline_rule_is_the_official_one(
    models: dict[str, LlavaVideo],
    values: dict[str, dict[str, Tensor]],
    pool: str,
    newline: Newline,
) -> None:
    model, want, case = models["tinyA"], values["tinyA"], "F4_60x90"
    spec: ModelSpec = dataclasses.replace(model.spec, pool=pool, newline=newline)
    variant = dataclasses.replace(model, spec=spec)
    visual = woven(variant, variant.encode(frames_of(want, case)))
    assert visual.shape[0] == spec.layout(4).available
    embeds = embeds_of(variant, want[f"{case}/input_ids"], visual)
    close(embeds, want[f"{case}/variant_{pool}_{newline}/inputs_embeds"], 1e-4)


def test_batches_of_frames_are_encoded_alike(
    models: dict[str, LlavaVideo], values: dict[str, dict[str, Tensor]]
) -> None:
    model, frames = models["tinyA"], frames_of(values["tinyA"], "F8_48x48")
    apart = torch.cat([model.encode(frames[:4]), model.encode(frames[4:])])
    assert torch.equal(model.encode(frames), apart)


def test_frames_of_another_size_are_refused(models: dict[str, LlavaVideo]) -> None:
    with pytest.raises(ValueError, match=r"not uint8 \(f, 98, 98, 3\)"):
        models["tinyA"].encode(torch.zeros(1, 96, 98, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        models["tinyA"].encode(torch.zeros(1, 98, 98, 3))
