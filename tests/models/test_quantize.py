"""4-bit and 8-bit: the language model and nothing else, counted; and where a model is placed."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tokenreduce.engine.types import Sampling
from tokenreduce.errors import CapacityError, ModelError, SettingError
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import load
from tokenreduce.models.placement import Placement, choose_device, choose_dtype, place
from tokenreduce.models.quantize import choose, layer_bytes, verify
from tokenreduce.models.spec import TextSpec
from tokenreduce.models.weights import too_small
from tokenreduce.tokens import Tokens

SEVEN_B = TextSpec(28, 3584, 18944, 28, 4, 128, 152064, 32768)
TINY = TextSpec(12, 192, 512, 6, 2, 32, 720, 8192)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _level_of_bitsandbytes() -> Iterator[None]:
    """Loading turns its reports off, which other tests should not inherit."""
    level = logging.getLogger("bitsandbytes").level
    yield
    logging.getLogger("bitsandbytes").setLevel(level)


def opened(checkpoint: Path, quantize: str) -> LlavaVideo:
    model = load(str(checkpoint), device="cpu", quantize=quantize)
    assert isinstance(model, LlavaVideo)
    return model


def linears(model: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            found[type(module).__name__] = found.get(type(module).__name__, 0) + 1
    return found


def dtypes_of_computing(model: LlavaVideo) -> set[torch.dtype]:
    """Of all layers in 4 bits."""
    layers: list[Any] = list(model.host.modules())
    return {one.compute_dtype for one in layers if type(one).__name__ == "Linear4bit"}


@pytest.mark.parametrize(("quantize", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_the_language_model_alone_is_quantised_and_answers(
    checkpoint: Path, quantize: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model, plain = opened(checkpoint, quantize), opened(checkpoint, "none")
    assert model.quantize == quantize
    layers = model.spec.text.layers
    assert linears(model.host.model.language_model) == {kind: 7 * layers}
    assert linears(model.host.model.vision_tower) == {"Linear": 6 * model.spec.vision.layers}
    assert linears(model.host.model.multi_modal_projector) == {"Linear": 2}
    assert type(model.host.lm_head) is nn.Linear
    assert model.host.get_input_embeddings().weight.dtype == torch.float32

    frames = torch.arange(2 * 98 * 98 * 3).remainder(251).to(torch.uint8).view(2, 98, 98, 3)
    features = model.encode(frames)
    # What is not quantised is untouched, bit for bit.
    assert torch.equal(features, plain.encode(frames))
    visual = Tokens.fresh(features.flatten(0, 1).unsqueeze(0))
    prompt = model.prompt("What is it?", None, visual, model.spec.layout(2))
    pieces: list[str] = []
    made = model.generate(prompt, (), Sampling(5), pieces.append, lambda _: None)
    assert 1 <= made.tokens <= 5
    assert made.text == "".join(pieces)

    rough = model.host(inputs_embeds=prompt.embeds).logits
    exact = plain.host(inputs_embeds=prompt.embeds).logits
    error = ((rough - exact).norm() / exact.norm()).item()
    assert 1e-4 < error < 0.4  # really quantised, and still the same model
    assert capfd.readouterr().err == ""


def test_nf4_is_nf4_with_double_quantisation_and_computes_in_bfloat16(checkpoint: Path) -> None:
    layer: Any = opened(checkpoint, "nf4").host.model.language_model.layers[0].mlp.up_proj
    assert layer.weight.quant_type == "nf4"
    assert layer.weight.quant_state.nested
    assert layer.compute_dtype == torch.bfloat16


def test_nf4_layers_of_a_float16_model_compute_in_float16(checkpoint: Path) -> None:
    model = load(str(checkpoint), device="cpu", dtype="float16", quantize="nf4")
    assert isinstance(model, LlavaVideo)
    assert dtypes_of_computing(model) == {torch.float16}


def test_verify_refuses_what_was_not_promised(checkpoint: Path) -> None:
    host = opened(checkpoint, "nf4").host
    language = host.model.language_model
    verify(host, language, "nf4")
    for promised in ("none", "int8"):
        with pytest.raises(ModelError, match="28 Linear4bit in the language model"):
            verify(host, language, promised)
    # As if the tower had been quantised: its share of the count is on the wrong side.
    with pytest.raises(ModelError, match="Linear4bit outside the language model"):
        verify(host, language.layers[0], "nf4")
    with pytest.raises(ModelError):
        verify(host, nn.Identity(), "nf4")


def test_verify_sees_a_quantised_tower(checkpoint: Path) -> None:
    linear: Any = importlib.import_module("bitsandbytes.nn").Linear4bit
    host: Any = opened(checkpoint, "nf4").host
    host.model.vision_tower.encoder.layers[0].mlp.fc1 = linear(32, 64)
    with pytest.raises(ModelError, match="1 Linear4bit outside the language model"):
        verify(host, host.model.language_model, "nf4")


def test_auto_quantises_large_models_on_cuda_only() -> None:
    assert choose("auto", SEVEN_B, CUDA) == "nf4"
    assert choose("auto", SEVEN_B, CPU) == "none"
    assert choose("auto", TINY, CUDA) == "none"
    assert choose("int8", TINY, CPU) == "int8"
    with pytest.raises(SettingError, match="it can be auto, nf4, int8, none"):
        choose("int4", SEVEN_B, CUDA)


def test_bitsandbytes_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenreduce.models.quantize.find_spec", lambda _: None)
    assert choose("auto", SEVEN_B, CUDA) == "none"
    assert choose("none", SEVEN_B, CUDA) == "none"
    with pytest.raises(SettingError, match="not installed"):
        choose("nf4", SEVEN_B, CUDA)


def test_layer_bytes_counts_the_matrices_of_the_layers(checkpoint: Path) -> None:
    model = opened(checkpoint, "none")
    layers = model.host.model.language_model.layers
    weights = sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear))
    assert layer_bytes(model.spec.text) == 2 * weights
    assert layer_bytes(SEVEN_B) == pytest.approx(13.05e9, rel=0.01)


def test_absent_devices_and_unknown_names() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(CapacityError, match="device cuda:99: this machine has"):
        choose_device("cuda:99")
    for name in ("gpu", "cuda:", "cuda:-1", "CPU", "xpu", ""):
        with pytest.raises(SettingError, match="it can be auto, cuda"):
            choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_on_a_machine_without_it(checkpoint: Path) -> None:
    with pytest.raises(CapacityError, match="has 0 cuda devices"):
        load(str(checkpoint), device="cuda")


def test_dtypes() -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", CUDA) == torch.bfloat16
    assert choose_dtype("float16", CPU) == torch.float16
    with pytest.raises(SettingError, match="it can be auto, bfloat16, float16, float32"):
        choose_dtype("fp8", CPU)


def test_bfloat16_on_a_cpu(checkpoint: Path) -> None:
    model = load(str(checkpoint), device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    features = model.encode(torch.zeros(1, 98, 98, 3, dtype=torch.uint8))
    assert features.dtype == torch.bfloat16
    assert place("cpu", "auto", "auto", TINY) == Placement(CPU, torch.float32, "none")


@pytest.mark.parametrize(("quantize", "advice"), [("none", "--quantize nf4"), ("nf4", "smaller")])
def test_too_little_memory_says_what_to_do(quantize: Any, advice: str) -> None:
    assert advice in too_small("x", Placement(CUDA, torch.bfloat16, quantize))
