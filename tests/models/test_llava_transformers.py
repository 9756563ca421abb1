"""Equality with transformers' own LLaVA-OneVision, on a tiny random checkpoint of its layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import load
from tokenreduce.models.vision import pixel_values

# What the files on the hub, written by transformers 4, call the parts.
HUB_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
)


def tiny(tied: bool) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(7)
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 70,
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
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
            "tie_word_embeddings": tied,
        },
        tie_word_embeddings=tied,
        image_token_index=298,
        video_token_index=299,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    model.train(False)
    # Away from zero, so that a norm or a bias that is left out shows.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def write(
    folder: Path, model: LlavaOnevisionForConditionalGeneration, naming: str, tokenizer: object
) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]  # transformers leaves it untyped
    preprocessor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    if naming == "saved":
        return
    renamed = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for ours, hub in HUB_NAMES if naming == "hub" else ():
            if name.startswith(ours):
                name = hub + name.removeprefix(ours)  # noqa: PLW2901
                break
        renamed[name] = tensor.contiguous()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
@pytest.mark.parametrize(
    ("naming", "tied"), [("hub", False), ("hub", True), ("saved", False), ("module", True)]
)
def test_video_features_and_logits_are_those_of_transformers(
    tmp_path: Path, make_tokenizer: Callable[..., object], naming: str, tied: bool
) -> None:
    stock = tiny(tied)
    write(tmp_path, stock, naming, make_tokenizer(300))
    if naming == "hub":
        stored = load_file(tmp_path / "model.safetensors")
        assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in stored
    model = load(str(tmp_path), device="cpu")
    assert isinstance(model, LlavaVideo)
    assert model.spec.newline == "one_token"
    assert model.spec.native_frames == 32
    assert not model.spec.time_text
    frames = torch.randint(0, 256, (6, 70, 70, 3), dtype=torch.uint8)
    pixels = pixel_values(frames, model.spec)
    # The checkpoint's own mean and standard deviation, channel by channel.
    assert pixels[0, 2, 3, 4].item() == pytest.approx(
        (frames[0, 3, 4, 2].item() / 255 - 0.6) / 0.25
    )

    newline = model.newline()
    assert newline is not None
    visual = torch.cat([model.encode(frames).flatten(0, 1), newline.unsqueeze(0)])
    theirs = stock.model.get_video_features(pixels.unsqueeze(0)).pooler_output[0]
    # Older versions append the newline later; that it is there shows in the logits.
    assert theirs.shape[0] in (6 * 9, 6 * 9 + 1)
    torch.testing.assert_close(visual[: theirs.shape[0]], theirs, rtol=0, atol=1e-5)

    ids = torch.tensor([[5, 6, *[299] * 55, 7, 8]])
    wanted = stock(input_ids=ids, pixel_values_videos=pixels.unsqueeze(0)).logits
    table = model.host.get_input_embeddings()
    embeds = torch.cat([table(ids[:, :2]), visual.unsqueeze(0), table(ids[:, -2:])], dim=1)
    found = model.host(inputs_embeds=embeds).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
