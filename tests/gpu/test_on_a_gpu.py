"""What has to hold on a GPU as on a CPU: each is run on both, where there is a GPU.

Run where one is promised with TOKENREDUCE_REQUIRE_GPU=1: then a skip is a failure.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce import memory
from tokenreduce.budget import Layout
from tokenreduce.engine.generate import generate
from tokenreduce.engine.host import read_prompt, stack_of
from tokenreduce.engine.types import Plan, Prompt, Prune, Sampling, Way
from tokenreduce.methods import METHODS
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import load
from tokenreduce.paradigm import Site
from tokenreduce.reducer import Reducer
from tokenreduce.schedule import Once, Ramp
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import nowhere, once, prune
from tokenreduce.tokens import Split, Tokens

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
QUESTION = "Is there a red circle in the video?"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
on_both = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def demo(device: str, dtype: str = "auto", quantize: str = "none") -> LlavaVideo:
    model = load("demo", device=device, dtype=dtype, quantize=quantize)
    assert isinstance(model, LlavaVideo)
    return model


def frames(count: int, size: int) -> Tensor:
    """A gradient that moves."""
    at = torch.arange(size)
    rows = [(at[:, None] * 2 + at[None] * 3 + 9 * index) % 256 for index in range(count)]
    return torch.stack(rows).to(torch.uint8).unsqueeze(-1).expand(-1, -1, -1, 3).contiguous()


def asked(model: LlavaVideo, count: int = 8) -> Prompt:
    features = model.encode(frames(count, model.spec.vision.image_size))
    grid = Layout(count, model.spec.side, model.spec.side)
    return model.prompt(QUESTION, None, Tokens.fresh(features.flatten(0, 1).unsqueeze(0)), grid)


@pytest.mark.gpu
def test_nf4_is_loaded_in_the_language_model_alone_and_answers() -> None:
    model = demo("cuda", quantize="nf4")
    parts: dict[str, nn.Module] = {
        "language_model": model.host.model.language_model,
        "vision_tower": model.host.model.vision_tower,
        "multi_modal_projector": model.host.model.multi_modal_projector,
    }
    found = {
        name: dict(Counter(type(m).__name__ for m in part.modules() if isinstance(m, nn.Linear)))
        for name, part in parts.items()
    }
    assert found == {
        "language_model": {"Linear4bit": 7 * model.spec.text.layers},
        "vision_tower": {"Linear": 6 * model.spec.vision.layers},
        "multi_modal_projector": {"Linear": 2},
    }
    assert all(tensor.device.type == "cuda" for tensor in model.host.parameters())
    made = model.generate(asked(model), (), Sampling(4), lambda _: None, lambda _: None)
    assert 1 <= made.tokens <= 4


@dataclass(frozen=True)
class Chosen:
    """Keeps given tokens, by their numbers among those that are there."""

    keep: tuple[int, ...]
    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[None] = None
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)

    def filter(self, seen: Seen, keep: int) -> Split:
        index = torch.tensor([self.keep], device=seen.tokens.place.device)
        assert index.shape[1] == keep
        return Split.of_keep(index, seen.tokens.count)

    def work(self, sizes: object, keep: int) -> Any:
        raise NotImplementedError


def masked(model: LlavaVideo, prompt: Prompt, gone: Tensor, from_layer: int) -> Tensor:
    """Logits after the prompt with nothing removed: from a layer on, no position but itself looks
    at those in `gone`."""
    stack: Any = stack_of(model.host)
    length = prompt.embeds.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=model.device).tril()
    narrow = causal.clone()
    narrow[:, gone] = False
    narrow.fill_diagonal_(True)
    rope = stack.rotary_emb(prompt.embeds, torch.arange(length, device=model.device)[None])
    hidden = prompt.embeds
    for index, layer in enumerate(stack.layers):
        mask = (narrow if index >= from_layer else causal)[None, None]
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rope)
    logits: Tensor = model.host.lm_head(stack.norm(hidden[:, -1:]))
    return logits.float()


@on_both
@torch.no_grad()
def test_removing_is_masking_in_bfloat16(device: str) -> None:
    model = demo(device, "bfloat16")
    prompt = asked(model)
    count, depth = prompt.visual.shape[0], model.spec.text.layers
    schedule = Once(after=Ramp().first, keep=Ramp().first / 4)
    layer = next(i for i in range(depth) if schedule.kept(i, depth, count) < count)
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    kept = kept[: schedule.kept(layer, depth, count)].sort().values
    stays = torch.zeros(count, dtype=torch.bool)
    stays[kept] = True
    gone = prompt.visual[~stays.to(model.device)]

    def read(prunes: Sequence[Prune]) -> Tensor:
        cache = DynamicCache()
        return read_prompt(model.host, Plan(prompt, prunes), cache).logits.float()

    removed = read((Prune(Chosen(tuple(kept.tolist())), schedule),))
    reference = masked(model, prompt, gone, layer + 1)
    whole = read(())
    error = ((removed - reference).norm() / reference.norm()).item()
    changed = ((removed - whole).norm() / whole.norm()).item()
    assert error < 0.03  # bfloat16 has 8 bits, and the sums are cut differently
    assert changed > 2 * error  # else nothing here could fail


@on_both
def test_every_way_of_decoding_gives_the_same_tokens(device: str) -> None:
    model = demo(device, "float32")
    prompt = asked(model)
    prunes = (Prune(METHODS["aim-prune"](), Ramp()),)
    ways: tuple[Way, ...] = ("stock", "slots", "auto")
    told: dict[Way, list[list[int]]] = {}
    for way in ways:
        heard: list[list[int]] = []
        made = generate(
            model.host,
            partial(_noted, model, heard),
            prompt,
            prunes,
            Sampling(24 if device == "cuda" else 8, 1.5, 7),  # drawn, so that they differ
            (),
            lambda _: None,
            lambda _: None,
            way=way,
        )
        told[way] = heard
        assert made.tokens == (24 if device == "cuda" else 8)
        if way == "auto":
            assert made.decoding.road == ("graphs" if device == "cuda" else "stock")
    assert told["slots"] == told["auto"] == told["stock"]
    assert len(told["stock"]) > 2


def _noted(model: LlavaVideo, heard: list[list[int]], tokens: list[int]) -> str:
    heard.append(list(tokens))
    return model.chat.text_of(tokens)


@on_both
@pytest.mark.parametrize(("name", "site"), [("aim-merge", "frames"), ("drift-merge", "clip")])
def test_streaming_is_reducing_all_at_once(device: str, name: str, site: Any) -> None:
    """The same bits whatever chunks the frames come in."""
    generator = torch.Generator().manual_seed(5)
    steps = torch.randn(90, 16, 32, generator=generator).cumsum(dim=0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    features = steps.to(device, dtype)
    newline = torch.full((32,), 7.0, device=device, dtype=dtype)
    one = Layout(1, 4, 4, "grid")
    found = []
    for chunk in (90, 16, 7):
        reducer = Reducer(one, 150, METHODS[name](), newline, site=site, resident=200)
        for part in features.split(chunk):
            reducer.add(part)
        found.append(reducer.finish())
    assert found[0].count == 150
    assert found[0].x.device.type == device
    for other in found[1:]:
        assert torch.equal(other.x, found[0].x)
        assert torch.equal(other.place, found[0].place)


@pytest.mark.gpu
def test_the_demo_model_sees_the_same_on_both_devices() -> None:
    cpu, cuda = demo("cpu", "float32"), demo("cuda", "float32")
    pixels = frames(4, cpu.spec.vision.image_size)
    # By default cuDNN multiplies float32 in TF32, with 10 bits; the patches are a convolution.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        seen = [model.encode(pixels).cpu() for model in (cpu, cuda)]
        texts = [
            model.generate(asked(model), (), Sampling(8), lambda _: None, lambda _: None).text
            for model in (cpu, cuda)
        ]
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-3, atol=1e-3)
    assert texts[0] == texts[1]


@pytest.fixture
def random_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("benchmarks.random_model")
    torch.cuda.empty_cache()


@pytest.mark.gpu
def test_a_random_7b_in_nf4_is_made_on_the_device(random_model: Any) -> None:
    """6.1 GiB by count: matrices of half a byte and a scale a number, the rest in bfloat16."""
    cuda = torch.device("cuda")
    torch.zeros(1, device=cuda).item()  # the context and its libraries are there
    memory.reset_device_peak(cuda)
    anew = memory.reset_host_peak()
    host, before = memory.host_bytes() or 0, torch.cuda.memory_allocated()
    model = random_model.make("7b", cuda, torch.bfloat16, "nf4")
    held = torch.cuda.memory_allocated() - before
    assert 5.5 * GIB < held < 6.5 * GIB
    assert (memory.device_peak_bytes(cuda) or 0) - before < held + 1.5 * GIB
    if anew:
        assert memory.host_peak_bytes() - host < 2 * GIB
    made = model.generate(asked(model, 2), (), Sampling(3), lambda _: None, lambda _: None)
    assert made.tokens == 3
