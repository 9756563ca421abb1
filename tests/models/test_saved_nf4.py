"""A model saved in NF4 is, bit for bit, the one that is quantised while loading; and what is
damaged is refused in one line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenreduce.errors import ModelError, SettingError
from tokenreduce.models import packing
from tokenreduce.models.files import complete, missing_files
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import check, load, read_spec, stored
from tokenreduce.models.packing import pack, packed_bytes
from tokenreduce.models.saved import Manifest, manifest_of, packed

CPU = torch.device("cpu")
MATRIX = "model.layers.1.mlp.up_proj.weight"
MADE = Manifest("tiny", "main", "")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """And the level of bitsandbytes' reports, which loading changes, as it was."""
    before, level = torch.get_num_threads(), logging.getLogger("bitsandbytes").level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    logging.getLogger("bitsandbytes").setLevel(level)


@pytest.fixture(scope="module")
def sharded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in bfloat16, as real ones are, in three files."""
    folder = tmp_path_factory.mktemp("sharded")
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    tensors = {k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    shards = {key: f"model-{i % 3}.safetensors" for i, key in enumerate(sorted(tensors))}
    for name in set(shards.values()):
        held = {key: tensors[key] for key, shard in shards.items() if shard == name}
        save_file(held, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return folder


@pytest.fixture(scope="module")
def saved(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("saved") / "tiny-nf4"
    return pack(sharded, stored(sharded, "tiny"), to, MADE, CPU)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A saved model to be broken."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def opened(folder: Path, **settings: Any) -> LlavaVideo:
    model = load(str(folder), device="cpu", **settings)
    assert isinstance(model, LlavaVideo)
    return model


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(folder), device="cpu")
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def all_of(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found.update(load_file(path))
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_bit_for_bit_what_quantising_while_loading_makes(
    sharded: Path, saved: Path, dtype: str
) -> None:
    fresh, kept = opened(sharded, quantize="nf4", dtype=dtype), opened(saved, dtype=dtype)
    assert kept.quantize == "nf4"
    mine: dict[str, Any] = dict(fresh.host.named_parameters())
    its: dict[str, Any] = dict(kept.host.named_parameters())
    states = 0
    for (name, a), (other, b) in zip(mine.items(), its.items(), strict=True):
        assert (name, a.dtype, a.shape) == (other, b.dtype, b.shape)
        assert torch.equal(a.data, b.data), name
        if getattr(a, "quant_state", None) is not None:
            states += 1
            one, two = (part.quant_state.as_dict(packed=True) for part in (a, b))
            assert one.keys() == two.keys()
            assert all(torch.equal(one[part], two[part]) for part in one), name
    assert states == 7 * fresh.spec.text.layers
    frames = torch.arange(98 * 98 * 3).remainder(251).to(torch.uint8).view(1, 98, 98, 3)
    assert torch.equal(fresh.encode(frames), kept.encode(frames))
    embeds = fresh.encode(frames)
    assert torch.equal(
        fresh.host(inputs_embeds=embeds).logits, kept.host(inputs_embeds=embeds).logits
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_its_layers_compute_in_what_was_asked_for_now(saved: Path, dtype: torch.dtype) -> None:
    """Not in what the saved configuration says: it was written for bfloat16."""
    model = opened(saved, dtype=str(dtype).removeprefix("torch."))
    layer: Any = model.host.model.language_model.layers[-1].self_attn.q_proj
    wanted = torch.float16 if dtype == torch.float16 else torch.bfloat16
    assert (layer.compute_dtype, layer.weight.quant_state.dtype) == (wanted, dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_is_bit_for_bit_the_same_on_a_gpu(sharded: Path, tmp_path: Path) -> None:
    to = pack(sharded, stored(sharded, "tiny"), tmp_path / "cuda-nf4", MADE, torch.device("cuda"))
    fresh, kept = (load(str(f), device="cuda", quantize="nf4") for f in (sharded, to))
    assert isinstance(fresh, LlavaVideo)
    assert isinstance(kept, LlavaVideo)
    its = dict(kept.host.named_parameters())
    for name, one in fresh.host.named_parameters():
        assert torch.equal(one.data, its[name].data), name
    embeds = torch.randn(1, 9, fresh.spec.text.width, device="cuda", dtype=fresh.dtype)
    logits = [model.host(inputs_embeds=embeds).logits for model in (fresh, kept)]
    assert torch.equal(*logits)


def test_what_is_not_quantised_stands_in_the_files_as_it_stood(sharded: Path, saved: Path) -> None:
    before, after = all_of(sharded), all_of(saved)
    plain = [key for key in before if key in after and after[key].dtype != torch.uint8]
    assert len(plain) == len(before) - 7 * read_spec(str(saved)).text.layers
    assert all(torch.equal(before[key], after[key]) for key in plain)
    assert [after[key].dtype for key in plain] == [torch.bfloat16] * len(plain)


def test_the_size_is_told_before(sharded: Path, saved: Path) -> None:
    held = sum(part.numel() * part.element_size() for part in all_of(saved).values())
    told = packed_bytes(stored(sharded, "tiny"))
    assert told == pytest.approx(held, rel=0.02)
    assert told >= held  # what bitsandbytes writes of a matrix is counted generously


def test_a_folder_like_any_other(saved: Path, sharded: Path) -> None:
    assert complete(saved, "tiny") == saved
    assert missing_files(saved, "tiny") == []
    assert sorted(path.name for path in saved.glob("model*")) == [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    assert manifest_of(saved) == MADE
    assert manifest_of(sharded) is None
    assert read_spec(str(saved)) == replace(read_spec(str(sharded)), name=str(saved))
    check(str(saved))
    modes = {path.stat().st_mode for path in saved.iterdir()}
    assert len(modes) == 1  # nothing that only its owner may read


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_only_what_it_holds_can_be_asked_for(saved: Path, quantize: str) -> None:
    with pytest.raises(SettingError, match="holds nf4 weights; set nf4 or auto"):
        load(str(saved), device="cpu", quantize=quantize)
    assert opened(saved, quantize="nf4").quantize == "nf4"


def test_the_layout_that_is_expected_is_what_bitsandbytes_writes(saved: Path) -> None:
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in saved.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                piece = file.get_slice(key)
                found[key] = (piece.get_dtype(), tuple(piece.get_shape()))
    wanted = packed(MATRIX, (128, 64))
    assert [key for key in sorted(found) if key.startswith(MATRIX)] == sorted(wanted)
    for key, (dtype, shape) in wanted.items():
        assert found[key] == (dtype, shape or found[key][1])


def change(folder: Path, do: Callable[[dict[str, Tensor]], None]) -> None:
    """In the file that holds all of MATRIX."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if MATRIX in tensors:
            do(tensors)
            save_file(tensors, path)


def without(tensors: dict[str, Tensor]) -> None:
    del tensors[f"{MATRIX}.absmax"]


def misshapen(tensors: dict[str, Tensor]) -> None:
    tensors[f"{MATRIX}.absmax"] = tensors[f"{MATRIX}.absmax"][1:]


def unpacked(tensors: dict[str, Tensor]) -> None:
    tensors[MATRIX] = torch.zeros(128, 64)


def no_text(tensors: dict[str, Tensor]) -> None:
    tensors[f"{MATRIX}.quant_state.bitsandbytes__nf4"] = torch.zeros(9, dtype=torch.uint8)


def of_another(tensors: dict[str, Tensor]) -> None:
    key = f"{MATRIX}.quant_state.bitsandbytes__nf4"
    told = json.loads(bytes(tensors[key].tolist())) | {"shape": [64, 128]}
    tensors[key] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)


def beside_a_norm(tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight.absmax"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (without, f"tensor model.language_{MATRIX[6:]}.absmax missing"),
        (misshapen, "as NF4 has it; pull the model again"),
        (unpacked, "is F32 (128, 64), not U8"),
        (no_text, "cannot be read; pull the model again"),
        (of_another, "'shape': (64, 128)}, not"),
        (beside_a_norm, "unexpected tensor model.language_model.norm.weight.absmax"),
    ],
)
def test_damage_is_refused(
    folder: Path, broken: Callable[[dict[str, Tensor]], None], says: str
) -> None:
    change(folder, broken)
    assert says.replace("language_layers", "language_model.layers") in refusal(folder)


def test_codes_without_a_configuration_that_says_so_are_refused(
    folder: Path, sharded: Path
) -> None:
    shutil.copyfile(sharded / "config.json", folder / "config.json")
    assert "is U8, not a float" in refusal(folder)


def test_weights_with_a_configuration_that_says_codes_are_refused(
    saved: Path, sharded: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    shutil.copyfile(saved / "config.json", folder / "config.json")
    assert ".absmax, " in refusal(folder)


@pytest.mark.parametrize(
    "told",
    [
        {"quant_method": "awq"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        "gptq",
    ],
)
def test_another_quantisation_is_refused(folder: Path, told: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
    assert "its weights are quantised already" in refusal(folder)


def test_it_goes_on_where_it_was_interrupted(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, tensors = tmp_path / "tiny-nf4", stored(sharded, "tiny")
    written: list[str] = []

    def stop_at_the_second(made: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        save(made, path, about)

    def save(made: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
        save_file(made, path, about)
        written.append(path.name)

    monkeypatch.setattr(packing, "save_file", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        pack(sharded, tensors, to, MADE, CPU)
    assert not to.exists()
    monkeypatch.setattr(packing, "save_file", save)
    told: list[tuple[int, int]] = []
    pack(sharded, tensors, to, MADE, CPU, lambda done, of: told.append((done, of)))
    assert len(set(written)) == len(written) == 3  # none of them twice
    assert told[0][0] > 1
    assert told[-1] == (len(tensors), len(tensors))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-nf4"]
    check(str(to))


def test_what_was_begun_of_another_commit_is_not_gone_on_with(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, tensors = tmp_path / "tiny-nf4", stored(sharded, "tiny")
    half = packing.unfinished(to)
    half.mkdir()
    (half / "made.json").write_text(json.dumps({"of": vars(Manifest("tiny", "main", "old"))}))
    (half / "model-00001-of-00003.safetensors").write_bytes(b"of something else")
    pack(sharded, tensors, to, MADE, CPU)
    check(str(to))


def test_a_disk_that_fills_up_is_one_line(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "save_file", full)
    with pytest.raises(ModelError, match="No space left on device; the same command goes on"):
        pack(sharded, stored(sharded, "tiny"), tmp_path / "x", MADE, CPU)
