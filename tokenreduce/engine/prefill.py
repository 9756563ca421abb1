"""The first pass over a prompt, in which visual tokens really leave: their hidden states, RoPE
positions and keys and values of every later layer. Knows no family of models: any stack with
layers, norm, rotary_emb and config of transformers' Llama kind will do.

What leaves after a layer is missing from the next one on. Text stays; the survivors keep the
position ids they had. The cache holds a different length in each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce.engine.types import Prompt, Prune
from tokenreduce.errors import ModelError
from tokenreduce.paradigm import reduce
from tokenreduce.tokens import Attention, Grid, Seen, Tokens


class Stack(Protocol):
    """Decoder layers as transformers builds them, e.g. Qwen2Model or LlamaModel."""

    @property
    def layers(self) -> nn.ModuleList: ...

    @property
    def norm(self) -> nn.Module: ...

    @property
    def rotary_emb(self) -> nn.Module: ...


@dataclass(frozen=True)
class State:
    """A prompt between two layers: all that the layers above need besides the cache.

    layer      the next one to run
    hidden     (1, l', d)  its input
    position   (l',) int64, original positions of what is left, ascending
    visual     (n',) int64, where the visual tokens stand among the l'
    tokens     their sizes and places; their `x` may be that of a layer before
    entered    visual tokens that entered layer 0
    per_layer  visual tokens that each layer so far attended to
    """

    layer: int
    hidden: Tensor
    position: Tensor
    visual: Tensor
    tokens: Tokens
    entered: int
    per_layer: tuple[int, ...] = ()


@dataclass
class _Glimpse:
    """What one layer attended with, once it has run."""

    seen: list[Attention] = field(default_factory=list)

    def __call__(self, q: Tensor, k: Tensor, scale: float) -> None:
        self.seen.append(Attention(q, k, scale, causal=True))


def start(prompt: Prompt) -> State:
    """The state before layer 0. Raises ValueError if the prompt contradicts itself."""
    rows, length, _ = prompt.embeds.shape
    n = prompt.visual.shape[0]
    if rows != 1 or prompt.tokens.rows != 1 or prompt.tokens.count != n:
        raise ValueError(
            f"{rows} prompts, {prompt.tokens.rows} rows of {prompt.tokens.count} visual tokens at "
            f"{n} positions: the engine takes one prompt with one position a token"
        )
    if n and int(prompt.visual[-1]) >= length - 1:
        raise ValueError("a prompt ends with text: the answer is read off its last position")
    device = prompt.embeds.device
    position = torch.arange(length, device=device)
    return State(0, prompt.embeds, position, prompt.visual.to(device), prompt.tokens, n)


def run(
    stack: Stack,
    state: State,
    cache: DynamicCache,
    prunes: Sequence[Prune] = (),
    *,
    stop: int | None = None,
    seed: int = 0,
) -> State:
    """Runs layers state.layer .. stop - 1 (default: all) and fills their part of `cache`.

    prunes act after each layer in their order. With nothing to remove, every hidden state, key and
    value is bit for bit that of the stock forward. A state with its cache may be kept and run on
    from later, also several times on copies of the cache.

    Raises ValueError if a method returns tokens that it was not given, ModelError if the stack's
    attention cannot be seen (see `attention.make_observable`).
    """
    layers: list[nn.Module] = list(stack.layers)
    rope = stack.rotary_emb(state.hidden, state.position.unsqueeze(0))
    for layer in layers[state.layer : len(layers) if stop is None else stop]:
        index, count = state.layer, state.visual.shape[0]
        keeps = [prune.schedule.kept(index, len(layers), state.entered) for prune in prunes]
        glimpse = _Glimpse() if any(keep < count for keep in keeps) else None
        hidden = _through(layer, state.hidden, rope, cache, glimpse)
        state = replace(state, layer=index + 1, hidden=hidden, per_layer=(*state.per_layer, count))
        if glimpse is None:
            continue
        attention, kept = _only(glimpse, index), None
        for prune, keep in zip(prunes, keeps, strict=True):
            if keep >= state.visual.shape[0]:
                continue
            if kept is not None:
                attention = _among(attention, kept)
            state, kept = _reduced(state, prune, keep, attention, seed)
            rope = tuple(part.index_select(1, kept.to(part.device)) for part in rope)
    return state


def _through(
    layer: nn.Module,
    hidden: Tensor,
    rope: tuple[Tensor, ...],
    cache: DynamicCache,
    glimpse: _Glimpse | None,
) -> Tensor:
    """One layer, causal by SDPA's own flag.

    It gets no position ids: flash attention would take the gaps between survivors for the seams of
    packed sequences, and RoPE has them already.
    """
    more: dict[str, Any] = {} if glimpse is None else {"observe": glimpse}
    out = layer(
        hidden,
        attention_mask=None,
        past_key_values=cache,
        use_cache=True,
        position_embeddings=rope,
        **more,
    )
    if not isinstance(out, Tensor):
        raise ModelError(
            f"{type(layer).__name__} returned {type(out).__name__}, not hidden states: install "
            "transformers >=5.17,<5.24"
        )
    return out


def _only(glimpse: _Glimpse, index: int) -> Attention:
    if len(glimpse.seen) != 1:
        raise ModelError(
            f"the attention of layer {index} was seen {len(glimpse.seen)} times instead of once: "
            "prepare the model with tokenreduce.engine.attention.make_observable"
        )
    return glimpse.seen[0]


def _reduced(
    state: State, prune: Prune, keep: int, attention: Attention, seed: int
) -> tuple[State, Tensor]:
    """The state with `keep` visual tokens, and the indices of all that stay among its l'."""
    device = state.hidden.device
    visual, tokens = state.visual.to(device), state.tokens
    x = state.hidden.index_select(1, visual)
    here = Tokens(x, tokens.size.to(device), tokens.place.to(device))
    seen = Seen(here, x, _one_line(here), visual, _on(attention, device), seed)
    left = reduce(prune.method, seen, keep)
    kept_visual = _indices(left.place[0], here.place[0])
    stays = torch.ones(state.hidden.shape[1], dtype=torch.bool, device=device)
    stays[visual] = False
    stays[visual[kept_visual]] = True
    kept = stays.nonzero().squeeze(1)
    at = _indices(visual[kept_visual], kept)
    # A method that merges changed values; one that prunes gives back the very same bits.
    hidden = state.hidden.index_select(1, kept)
    hidden.index_copy_(1, at, left.x.to(hidden.dtype))
    position = state.position.to(device).index_select(0, kept)
    return replace(state, hidden=hidden, position=position, visual=at, tokens=left), kept


def _indices(of: Tensor, among: Tensor) -> Tensor:
    """Where each of the ascending numbers `of` stands in the ascending numbers `among`."""
    if of.shape[0] == 0:
        return of
    index = torch.searchsorted(among, of.contiguous())
    if index[-1] >= among.shape[0] or bool((among[index] != of).any()):
        raise ValueError("a method returned tokens in places that it was not given")
    return index


def _one_line(tokens: Tokens) -> Grid:
    """Inside the LLM newlines stand between the features, so places make no rectangle."""
    last = int(tokens.place[0, -1]) if tokens.count else -1
    return Grid(frames=1, rows=1, columns=last + 1)


def _on(attention: Attention, device: torch.device) -> Attention:
    return replace(attention, q=attention.q.to(device), k=attention.k.to(device))


def _among(attention: Attention, kept: Tensor) -> Attention:
    """The same layer's attention among the positions that stay."""
    index = kept.to(attention.q.device)
    return replace(
        attention, q=attention.q.index_select(2, index), k=attention.k.index_select(2, index)
    )


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of all keys and values that the cache really holds."""
    held = [getattr(layer, part) for layer in cache.layers for part in ("keys", "values")]
    return sum(part.numel() * part.element_size() for part in held if part is not None)
