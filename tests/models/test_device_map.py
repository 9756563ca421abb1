"""Layers on several devices: how they are shared out, and what cannot be. GPUs are pretended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tokenreduce.engine.types import Prune, Sampling
from tokenreduce.errors import CapacityError, SettingError
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.models.load import load, placed, read_spec
from tokenreduce.models.placement import Placement
from tokenreduce.models.spread import LAYERS, device_map_of, shared, spread
from tokenreduce.models.weights import load_weights
from tokenreduce.schedule import Ramp
from tokenreduce.tokens import Tokens

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIB = 1 << 30


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("rooms", "layers"),
    [
        ([100], "000000"),
        ([80, 80], "000000"),  # one is enough, so one it is
        ([60, 60], "001111"),  # what is left is as even as can be: 20 and 20
        ([50, 50, 50], "011122"),
        ([60, 20], "000011"),
        ([50, 20], "0011cc"),
        ([50], "00cccc"),
        ([20], "cccccc"),
    ],
)
def test_layers_are_shared_out(rooms: list[int], layers: str) -> None:
    """Of 10 each, where the first device holds 20 of other things."""
    names = {f"cuda:{i}": room for i, room in enumerate(rooms)}
    found = shared(names, 10, 20, 6)
    assert "".join("c" if one == "cpu" else one[-1] for one in found) == layers
    for name, room in names.items():
        beside = 20 + 10 * ("cpu" in found) if name == "cuda:0" else 0  # one more is copied there
        assert 10 * found.count(name) + beside <= max(room, beside)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """cards(free, ...): GPUs with that many GiB free; host: of the CPU's."""

    def have(*free: float, host: float = 1000) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(free))
        monkeypatch.setattr(
            "torch.cuda.mem_get_info", lambda device: (int(free[device.index] * GIB), 80 * GIB)
        )
        monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 0)
        monkeypatch.setattr("tokenreduce.memory.host_free_bytes", lambda: int(host * GIB))

    return have


SEVEN_B = Placement(CUDA, torch.bfloat16, "nf4")
WHOLE = replace(SEVEN_B, quantize="none")


@pytest.fixture(scope="module")
def spec() -> Any:
    from tokenreduce.models.builtin import builtin

    return builtin("llava-video-7b")


def test_a_card_with_room_has_all(cards: Callable[..., None], spec: Any) -> None:
    cards(24, 24)
    assert spread(SEVEN_B, spec, "auto") == replace(SEVEN_B, device=torch.device("cuda:0"))


def test_two_cards_share_what_one_cannot_hold(cards: Callable[..., None], spec: Any) -> None:
    cards(12, 12)
    found = spread(WHOLE, spec, "auto").layers
    assert len(found) == 28
    assert list(found) == sorted(found)  # in order: what goes through changes the card once
    assert set(found) == {"cuda:0", "cuda:1"}
    # The first holds the tower, embeddings and the output layer, 3 GiB, so fewer layers.
    assert found.count("cuda:0") < found.count("cuda:1")


def test_a_limit_counts_for_every_card(cards: Callable[..., None], spec: Any) -> None:
    cards(24, 24)
    assert spread(WHOLE, spec, "auto").layers == ()
    limited = spread(WHOLE, spec, "auto", max_memory_bytes=12 * GIB).layers
    assert set(limited) == {"cuda:0", "cuda:1"}


def test_the_rest_is_the_hosts(cards: Callable[..., None], spec: Any) -> None:
    cards(10)
    found = spread(WHOLE, spec, "auto").layers
    assert set(found) == {"cuda:0", "cpu"}
    assert found[-1] == "cpu"


def refused(call: Callable[[], object], kind: Any = CapacityError) -> str:
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_what_cannot_be_is_one_line(cards: Callable[..., None], spec: Any) -> None:
    cards(5)
    line = refused(lambda: spread(SEVEN_B, spec, "auto"))
    assert "bitsandbytes keeps no nf4 layers in the CPU's memory; give a smaller --model" in line
    line = refused(lambda: spread(replace(SEVEN_B, quantize="int8"), spec, "auto"))
    assert "set --quantize nf4, give" in line
    cards(4)
    assert "all but the layers takes" in refused(lambda: spread(WHOLE, spec, "auto"))
    cards(10, host=2)
    line = refused(lambda: spread(WHOLE, spec, "auto"))
    assert "of the CPU's memory 2.0 GiB are free" in line
    cards(10, 10)
    line = refused(lambda: spread(WHOLE, spec, "auto", "cuda:1"), SettingError)
    assert "give one of the two" in line
    assert "it can be none, auto" in refused(lambda: spread(WHOLE, spec, "even"), SettingError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_a_gpu_there_is_nothing_to_spread(checkpoint: Path) -> None:
    model = load(str(checkpoint), device_map="auto", max_memory_bytes=1)
    assert model.device == CPU
    warned: list[str] = []
    where = placed(str(checkpoint), device_map="auto", warn=warned.append)
    assert where == Placement(CPU, torch.float32, "none")
    assert "it can be none, auto" in refused(
        lambda: load(str(checkpoint), device_map="x"), SettingError
    )


@pytest.mark.parametrize("name", ["demo", "llava15"])
def test_every_weight_has_its_device(name: str, checkpoint: Path) -> None:
    from transformers import LlavaConfig

    from tokenreduce.engine.host import HostedLlava

    model: nn.Module
    if name == "demo":
        model = load(str(checkpoint), device="cpu").host  # type: ignore[attr-defined]
    else:
        with torch.device("meta"):
            tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
            tiny["num_attention_heads"] = 4
            model = HostedLlava(
                LlavaConfig(
                    vision_config={"model_type": "clip_vision_model", **tiny},
                    text_config={"model_type": "llama", **tiny},
                )
            )
    where = replace(WHOLE, device=torch.device("cuda:0"), layers=("cuda:0",) * 2 + ("cuda:1",) * 2)
    found = device_map_of(model, where)
    assert [found[f"{LAYERS}.{i}"] for i in range(4)] == list(where.layers)
    for weight, _ in [*model.named_parameters(), *model.named_buffers()]:
        over = [part for part in found if weight == part or weight.startswith(f"{part}.")]
        assert len(over) == 1, weight  # none left out, none under two
        if not weight.startswith(LAYERS):
            assert found[over[0]] == "cuda:0"


def test_a_spread_model_is_the_same(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers loads it with a device a part; here all of them are the CPU."""
    plain = load(str(checkpoint), device="cpu")
    asked: list[Any] = []
    kept = load_weights.__globals__["device_map_of"]

    def noted(model: nn.Module, placement: Placement) -> dict[str, str]:
        asked.append(kept(model, placement))
        found: dict[str, str] = asked[-1]
        return found

    layers = ("cpu",) * read_spec(str(checkpoint)).text.layers
    monkeypatch.setattr("tokenreduce.models.weights.device_map_of", noted)
    monkeypatch.setattr("tokenreduce.models.load.spread", lambda at, *_: replace(at, layers=layers))
    spread_one = load(str(checkpoint), device="cpu", device_map="auto")
    assert len(asked) == 1
    frames = torch.arange(98 * 98 * 3).remainder(251).to(torch.uint8).view(1, 98, 98, 3)
    assert torch.equal(plain.encode(frames), spread_one.encode(frames))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_layers_in_the_hosts_memory_give_the_same_tokens_on_a_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = read_spec(str(checkpoint)).text.layers
    layers = ("cuda:0",) * (count // 2) + ("cpu",) * (count - count // 2)

    def some(at: Placement, *_: object) -> Placement:
        return replace(at, device=torch.device("cuda:0"), layers=layers)

    monkeypatch.setattr("tokenreduce.models.load.spread", some)
    options: dict[str, Any] = {"device": "cuda", "dtype": "float32", "quantize": "none"}
    whole, parted = (load(str(checkpoint), **options, device_map=how) for how in ("none", "auto"))
    frames = torch.arange(98 * 98 * 3).remainder(251).to(torch.uint8).view(1, 98, 98, 3)
    texts = []
    for model in (whole, parted):
        visual = Tokens.fresh(model.encode(frames).flatten(0, 1).unsqueeze(0))
        prompt = model.prompt("What?", None, visual, model.spec.layout(1))
        prunes = (Prune(AimPrune(), Ramp(Fraction(0), Fraction(1))),)
        texts.append(model.generate(prompt, prunes, Sampling(8), lambda _: None, lambda _: None))
    assert texts[0].text == texts[1].text
