"""Checkpoints that cannot be used: one line that says what is wrong, before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenreduce.errors import ModelError
from tokenreduce.models.load import load, read_spec

Change = Callable[[Path], None]


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to be broken."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def refusal(folder: Path) -> str:
    """The one line with which loading is refused."""
    with pytest.raises(ModelError) as caught:
        load(str(folder), device="cpu")
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            del config[key]
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def test_an_intact_copy_loads(folder: Path) -> None:
    assert load(str(folder), device="cpu").spec == read_spec(str(folder))


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("model.image_newline", "model.image_newline"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.mm_projector.2.bias", "model.multi_modal_projector.linear_2.bias"),
    ],
)
def test_missing_tensor(folder: Path, stored: str, named: str) -> None:
    change_tensors(folder, lambda tensors: tensors.__delitem__(stored))
    assert f"tensor {named} missing" in refusal(folder)


def test_many_missing_tensors_are_counted(folder: Path) -> None:
    def strip(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "vision_tower" in name]:
            del tensors[name]

    change_tensors(folder, strip)
    # 35 stored, of which the two of the last norm are not needed.
    assert "and 32 more missing" in refusal(folder)


@pytest.mark.parametrize("extra", ["model.layers.4.mlp.up_proj.weight", "model.surprise"])
def test_unexpected_tensor(folder: Path, extra: str) -> None:
    change_tensors(folder, lambda tensors: tensors.update({extra: torch.zeros(2)}))
    assert "unexpected tensor" in refusal(folder)


def test_tensors_that_upstream_deletes_may_be_there(folder: Path) -> None:
    tower = "model.vision_tower.vision_tower.vision_model."

    def add(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if f"{tower}encoder.layers.1." in name]:
            tensors[name.replace("layers.1.", "layers.2.")] = tensors[name].clone()
        tensors[f"{tower}head.probe"] = torch.zeros(1, 1, 32)
        del tensors[f"{tower}post_layernorm.weight"], tensors[f"{tower}post_layernorm.bias"]

    change_tensors(folder, add)
    assert load(str(folder), device="cpu").spec.vision.layers == 2


def test_a_layer_beyond_the_deleted_one_is_unexpected(folder: Path) -> None:
    extra = "model.vision_tower.vision_tower.vision_model.encoder.layers.3.layer_norm1.bias"
    change_tensors(folder, lambda tensors: tensors.update({extra: torch.zeros(32)}))
    assert "unexpected tensor model.vision_tower.encoder.layers.3" in refusal(folder)


def test_wrong_shape(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.ones(63)}))
    assert "model.language_model.norm.weight is (63,), not (64,)" in refusal(folder)


def test_config_of_another_size(folder: Path) -> None:
    change_config(folder, intermediate_size=256)
    assert "as config.json says" in refusal(folder)


def test_tensor_of_integers(folder: Path) -> None:
    change_tensors(
        folder, lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)})
    )
    assert "model.norm.weight is I8" in refusal(folder)


def test_truncated_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "not readable as safetensors" in refusal(folder)


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"a-1.safetensors": names[:40], "a-2.safetensors": names[40:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    write_index(folder, {name: file for file, held in parts.items() for name in held})
    (folder / "model.safetensors").unlink()


def test_shards_load_as_one_file_does(folder: Path) -> None:
    frames = torch.full((1, 98, 98, 3), 9, dtype=torch.uint8)
    whole = load(str(folder), device="cpu").encode(frames)
    shard(folder)
    assert torch.equal(load(str(folder), device="cpu").encode(frames), whole)


def test_missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / "a-2.safetensors").unlink()
    assert "a-2.safetensors missing" in refusal(folder)


def test_tensor_in_two_shards(folder: Path) -> None:
    shard(folder)
    shutil.copy(folder / "a-1.safetensors", folder / "a-3.safetensors")
    write_index(folder, {"x": "a-1.safetensors", "y": "a-2.safetensors", "z": "a-3.safetensors"})
    assert "once more" in refusal(folder)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"x": "../model.safetensors"}, "not a file name"),
        ({"x": "/etc/passwd"}, "not a file name"),
        ({"x": 3}, "not a file name"),
        ({"x": "pytorch_model.bin"}, "only safetensors"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_index_that_lists_something_else(folder: Path, weight_map: Any, said: str) -> None:
    (folder / "model.safetensors").unlink()
    write_index(folder, weight_map)
    assert said in refusal(folder)


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (remove_all, "no config.json"),
        (lambda f: (f / "config.json").write_text('{"a": '), "not JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "not JSON"),
        (lambda f: (f / "config.json").write_text("[1, 2]"), "no JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (pickle_only, "only pickled weights"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text("no"), "tokenizer cannot be read"),
    ],
)
def test_files_that_are_not_a_model(folder: Path, change: Change, said: str) -> None:
    change(folder)
    assert said in refusal(folder)


def test_no_such_folder(folder: Path) -> None:
    assert "no such folder" in refusal(folder / "nowhere")


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "a file, not a model folder" in refusal(folder / "config.json")


@pytest.mark.parametrize("size", [100, 319])
def test_tokenizer_with_more_tokens_than_embeddings(folder: Path, size: int) -> None:
    change_config(folder, vocab_size=size)
    assert f"has 320 tokens and its config.json vocab_size {size}" in refusal(folder)


def test_tokenizer_without_turns(folder: Path, make_tokenizer: Callable[..., Any]) -> None:
    make_tokenizer(320, special=["<|endoftext|>", "<|im_end|>"]).save_pretrained(folder)
    assert "no token <|im_start|>" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["Qwen2VLForConditionalGeneration"]}, "describes Qwen2VL"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "describes LlavaLlama"),
        ({"architectures": ..., "model_type": "opt"}, "describes opt; supported: LLaVA-Video"),
        ({"architectures": ..., "model_type": ...}, "describes nothing"),
        ({"mm_vision_tower": ...}, "supported: LLaVA-Video"),
        ({"hidden_size": ...}, "hidden_size in config.json is missing"),
        ({"hidden_size": "64"}, "hidden_size in config.json is '64'"),
        ({"num_hidden_layers": 10**9}, "a count from 1 to 1024"),
        ({"num_hidden_layers": True}, "num_hidden_layers in config.json is True"),
        ({"num_attention_heads": 5}, "do not divide a width of 64"),
        ({"mm_spatial_pool_mode": "mean"}, "supported: bilinear, average, max"),
        ({"mm_newline_position": "row"}, "it can be grid, frame, one_token, no_token"),
        ({"mm_projector_type": "linear"}, "supported: mlp2x_gelu"),
        ({"mm_resampler_type": "perceiver"}, "mm_resampler_type"),
        ({"vision_config": ..., "mm_vision_tower": "clip"}, "mm_vision_tower is 'clip'"),
        ({"vision_config": [1]}, "an object is needed"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"quantization_config": {}}, "quantised already"),
        ({"rms_norm_eps": "small"}, "config.json cannot be used"),
        ({"rope_scaling": {"rope_type": "nonsense"}}, "config.json"),
    ],
)
def test_config_that_cannot_be_used(folder: Path, changes: dict[str, Any], said: str) -> None:
    change_config(folder, **changes)
    assert said in refusal(folder)


@pytest.mark.parametrize("std", [[0.5, 0.5], [0.5, 0.5, 0], "x", [1, 2, float("nan")]])
def test_preprocessor_that_cannot_be_used(folder: Path, std: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    text = {key: config[key] for key in config if not key.startswith("mm_")}
    change_config(folder, model_type="llava_onevision", text_config={**text, "model_type": "qwen2"})
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_std": std}))
    assert "image_std in preprocessor_config.json" in refusal(folder)


@pytest.fixture
def open_folder(checkpoint: Path) -> Iterator[Path]:
    """A copy that an unprivileged user can reach, whatever the permissions of pytest's folders."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    copy = shutil.copytree(checkpoint, base / "model")
    copy.chmod(0o755)
    yield copy
    shutil.rmtree(base)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read anything, so root becomes nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_permission_denied(open_folder: Path, file: str) -> None:
    (open_folder / file).chmod(0o000)
    with unprivileged():
        said = refusal(open_folder)
    assert file.partition(".")[0] in said


def test_permission_denied_on_the_folder(open_folder: Path) -> None:
    open_folder.chmod(0o000)
    with unprivileged():
        said = refusal(open_folder)
    open_folder.chmod(0o755)
    assert "Permission denied" in said
