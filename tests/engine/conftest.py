"""Tiny random language models, prompts and a slow masked reference for the engine's tests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from tokenreduce.budget import Layout
from tokenreduce.engine.host import HostedLlama, HostedQwen2, prepare
from tokenreduce.engine.types import Prompt
from tokenreduce.paradigm import Site
from tokenreduce.seen import Seen
from tokenreduce.steps import nowhere, once, prune
from tokenreduce.tokens import Split, Tokens

VOCABULARY = 101
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    # Large enough for attention to be far from uniform: else removing tokens changes next to
    # nothing, and no test here could fail.
    "initializer_range": 0.25,
}
FAMILIES: dict[str, tuple[Any, Any, Any]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, HostedQwen2),
    "llama": (LlamaConfig, LlamaForCausalLM, HostedLlama),
}


@dataclass(frozen=True)
class Pair:
    """transformers' own model, and ours with the very same weights."""

    stock: Any
    hosted: Any


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def _paired(family: str, **sizes: Any) -> Pair:
    config, stock_class, hosted_class = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        stock = stock_class(config(**{**SIZES, **sizes})).eval()
    hosted = hosted_class(copy.deepcopy(stock.config)).eval()
    hosted.load_state_dict(stock.state_dict())
    prepare(hosted)
    return Pair(stock, hosted)


@pytest.fixture(scope="session")
def paired() -> Callable[..., Pair]:
    """paired(family, **configuration)."""
    return _paired


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def pair(request: pytest.FixtureRequest) -> Pair:
    return _paired(request.param)


@pytest.fixture(scope="session")
def qwen2() -> Pair:
    return _paired("qwen2")


@pytest.fixture(scope="session")
def make_prompt() -> Callable[..., Prompt]:
    """make_prompt(length, visual, width=32, seed=0): random embeddings."""

    def make(length: int, visual: Sequence[int], width: int = 32, seed: int = 0) -> Prompt:
        generator = torch.Generator().manual_seed(seed)
        embeds = torch.randn(1, length, width, generator=generator)
        at = torch.tensor(visual, dtype=torch.int64)
        return Prompt(embeds, at, Tokens.fresh(embeds[:, at]), Layout(1, 1, max(1, len(at))))

    return make


@dataclass
class Forced:
    """A method that keeps given places, for tests; `keeps` holds one set a call, used up."""

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)
    keeps: list[list[int]]

    def filter(self, seen: Seen, keep: int) -> Split:
        wanted = self.keeps.pop(0)
        place = seen.tokens.place[0].tolist()
        index = torch.tensor([[place.index(p) for p in wanted]], dtype=torch.int64)
        assert index.shape[1] == keep
        return Split.of_keep(index, len(place))


@pytest.fixture(scope="session")
def forced() -> type[Forced]:
    return Forced


@dataclass
class Recorded:
    """Another method, what it was shown at each call and the places it left."""

    method: Any
    places: list[list[int]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def filter(self, seen: Seen, keep: int) -> Split:
        split: Split = self.method.filter(seen, keep)
        self.places.append(seen.tokens.place[0, split.keep[0]].tolist())
        self.seen.append(seen)
        return split


@pytest.fixture(scope="session")
def recorded() -> type[Recorded]:
    return Recorded


@dataclass
class Masked:
    """Nothing removed, only masked: what removal has to equal. Slow, and without our engine.

    sees (layers, l) bool: which keys each layer may look at. Every position stays a query and
    goes through every layer.
    """

    model: Any
    sees: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)

    def __call__(self, embeds: Tensor) -> Tensor:
        """float (1, l, vocab): logits; also fills inputs (of each layer) and scores (its scaled
        causal logits before masking, float32 (1, h, l, l))."""
        stack, length = self.model.model, embeds.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        position = torch.arange(length).unsqueeze(0)
        rope = stack.rotary_emb(embeds, position)
        hidden = embeds
        for i, layer in enumerate(stack.layers):
            self.inputs.append(hidden)
            self.scores.append(_scores(layer, hidden, rope))
            sees = torch.ones(length, dtype=torch.bool)
            sees[: self.sees.shape[1]] = self.sees[i]  # tokens generated later are always seen
            mask = torch.zeros(1, 1, length, length, dtype=embeds.dtype)
            mask.masked_fill_(~(causal & sees), torch.finfo(embeds.dtype).min)
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rope)
        logits: Tensor = self.model.lm_head(stack.norm(hidden))
        return logits


def _scores(layer: Any, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    attention = layer.self_attn
    x = layer.input_layernorm(hidden)
    shape = (*x.shape[:-1], -1, attention.head_dim)
    q = attention.q_proj(x).view(shape).transpose(1, 2)
    k = attention.k_proj(x).view(shape).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *rope)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores: Tensor = torch.matmul(q, k.transpose(2, 3)) * attention.scaling
    return scores


@pytest.fixture(scope="session")
def masked() -> type[Masked]:
    return Masked
