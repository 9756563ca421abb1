"""The first pass over a prompt, in which visual tokens really leave: their hidden states, RoPE
positions and keys and values of every later layer. Knows no family of models: any stack with
layers, norm, rotary_emb and config of transformers' Llama kind will do.

What leaves after a layer is missing from the next one on. Text stays; the survivors keep the
position ids they had. The cache holds a different length in each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.engine.choosing import Chooser, Standing, Step
from tokenreduce.engine.types import Prompt, Prune
from tokenreduce.errors import ModelError
from tokenreduce.paradigm import Method
from tokenreduce.tokens import Tokens


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
    tokens     their sizes and places, without features
    embeds     (1, l, d)  what entered layer 0, for methods that compare text and images by it
    entered    visual tokens that entered layer 0
    grid       of the raw sequence that the tokens' places count along
    per_layer  visual tokens that each layer so far attended to
    """

    layer: int
    hidden: Tensor
    position: Tensor
    visual: Tensor
    tokens: Tokens
    embeds: Tensor
    entered: int
    grid: Layout
    per_layer: tuple[int, ...] = ()


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
    visual, tokens, embeds = prompt.visual.to(device), prompt.tokens.bare(), prompt.embeds
    return State(0, embeds, position, visual, tokens, embeds, n, prompt.grid)


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
        due = _due(prunes, index, len(layers), state)
        chooser = None
        if due:
            stand, depth = partial(_standing, state), (index, len(layers))
            chooser = Chooser(stand, due, state.embeds, state.position, state.grid, depth, seed)
        hidden = _through(layer, state.hidden, rope, cache, chooser)
        state = replace(state, layer=index + 1, hidden=hidden, per_layer=(*state.per_layer, count))
        if chooser is not None:
            state, kept = _reduced(state, chooser.steps())
            rope = tuple(part.index_select(1, kept.to(part.device)) for part in rope)
    return state


def _through(
    layer: nn.Module,
    hidden: Tensor,
    rope: tuple[Tensor, ...],
    cache: DynamicCache,
    chooser: Chooser | None,
) -> Tensor:
    """One layer, causal by SDPA's own flag.

    It gets no position ids: flash attention would take the gaps between survivors for the seams of
    packed sequences, and RoPE has them already.
    """
    more: dict[str, Any] = {} if chooser is None else {"observe": chooser}
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


def _due(prunes: Sequence[Prune], layer: int, depth: int, state: State) -> list[tuple[Method, int]]:
    """The methods that have something to remove after `layer`, and how many tokens each leaves."""
    due, count = [], state.visual.shape[0]
    for prune in prunes:
        keep = prune.schedule.kept(layer, depth, state.entered)
        if keep < count:
            due.append((prune.method, keep))
            count = keep
    return due


def _standing(state: State) -> Standing:
    """The visual tokens of a state, with the features they have there, on its device."""
    device = state.hidden.device
    visual, tokens = state.visual.to(device), state.tokens
    x = state.hidden.index_select(1, visual)
    here = Tokens(x, tokens.size.to(device), tokens.place.to(device))
    return Standing(here, visual, state.hidden.shape[1])


def _reduced(state: State, steps: Sequence[Step]) -> tuple[State, Tensor]:
    """The state after `steps`, and the indices of all that stay among its l'."""
    before = _standing(state)
    left = before.tokens
    for step in steps:
        left = step.applied(left)
    after, kept = before.after(left)
    hidden = state.hidden.index_select(1, kept)
    # A method that merges changed values; one that prunes gives back the very same bits.
    hidden.index_copy_(1, after.visual, left.x.to(hidden.dtype))
    position = state.position.to(kept.device).index_select(0, kept)
    return replace(
        state, hidden=hidden, position=position, visual=after.visual, tokens=left.bare()
    ), kept


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of all keys and values that the cache really holds."""
    held = [getattr(layer, part) for layer in cache.layers for part in ("keys", "values")]
    return sum(part.numel() * part.element_size() for part in held if part is not None)
