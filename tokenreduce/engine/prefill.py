"""The first pass over a prompt, in which visual tokens really leave: their hidden states, RoPE
positions and keys and values of every later layer. Knows no family of models: any stack with
layers, norm, rotary_emb and config of transformers' Llama kind will do.

What leaves after a layer is missing from the next one on. Text stays; the survivors keep the
position ids they had. The cache holds a different length in each layer.

A further question about the same video is read on from a Stem: only its own positions go through
the layers before anything is chosen, and the choice and all after it is made afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce.engine.choosing import Chooser
from tokenreduce.engine.state import (
    State,
    advanced,
    due_after,
    entering,
    mask_of,
    reduced,
    standing,
)
from tokenreduce.engine.stem import Fork, Shown, bytes_of
from tokenreduce.engine.types import Prune
from tokenreduce.errors import ModelError


class Stack(Protocol):
    """Decoder layers as transformers builds them, e.g. Qwen2Model or LlamaModel."""

    @property
    def layers(self) -> nn.ModuleList: ...

    @property
    def norm(self) -> nn.Module: ...

    @property
    def rotary_emb(self) -> nn.Module: ...


def run(
    stack: Stack,
    state: State,
    cache: DynamicCache,
    prunes: Sequence[Prune] = (),
    *,
    stop: int | None = None,
    seed: int = 0,
    fork_bytes: int = 0,
) -> State:
    """Runs layers state.layer .. stop - 1 (default: all) and fills their part of `cache`.

    prunes act after each layer in their order. With nothing to remove, every hidden state, key and
    value is bit for bit that of the stock forward. A state with its cache may be kept and run on
    from later, also several times on copies of the cache.

    fork_bytes: the first layer with a choice is kept in the state if a stem of it takes no more.

    Raises ValueError if a method returns tokens that it was not given, ModelError if the stack's
    attention cannot be seen (see `attention.make_observable`).
    """
    layers: list[nn.Module] = list(stack.layers)
    going = _Going(cache, tuple(prunes), len(layers), seed, fork_bytes)
    rope = stack.rotary_emb(state.hidden, state.position.unsqueeze(0))
    mask = mask_of(state)
    for layer in layers[state.layer : len(layers) if stop is None else stop]:
        state, kept = _step(layer, state, going, rope, mask if state.read else None)
        here = state.hidden.device  # another where layers are spread over several
        rope = tuple(part.to(here) for part in rope)
        mask = None if mask is None else mask.to(here)
        if kept is not None:
            rope = tuple(part.index_select(1, kept.to(here)) for part in rope)
    return state


@dataclass(frozen=True)
class _Going:
    """What stays the same from layer to layer of one `run`."""

    cache: DynamicCache
    prunes: Sequence[Prune]
    depth: int
    seed: int
    fork_bytes: int


def _step(
    layer: nn.Module, state: State, going: _Going, rope: tuple[Tensor, ...], mask: Tensor | None
) -> tuple[State, Tensor | None]:
    """The state after one layer, and the indices of all that stay among its l' if some leave.

    rope is of all l' positions.
    """
    index, count = state.layer, state.visual.shape[0]
    due = due_after(going.prunes, index, going.depth, state)
    rope = tuple(part[:, state.read :] for part in rope)
    per_layer = (*state.per_layer, count)
    if not due:
        hidden = _through(layer, state.hidden, rope, going.cache, None, mask)
        return replace(advanced(state, hidden), layer=index + 1, per_layer=per_layer), None
    whole = replace(state, hidden=entering(state))
    chooser = Chooser(
        partial(standing, whole),
        due,
        state.embeds,
        state.position,
        state.grid,
        (index, going.depth),
        going.seed,
    )
    keeps = going.fork_bytes > 0 and count == state.entered
    shown = Shown(chooser, state.behind.queries if state.behind and state.read else None, keeps)
    hidden = _through(layer, state.hidden, rope, going.cache, shown, mask)
    steps = chooser.steps()
    after = replace(advanced(state, hidden), layer=index + 1, per_layer=per_layer)
    if keeps:
        fork = Fork(index, whole.hidden, after.hidden, shown.queries[0])
        if bytes_of((state.embeds, *fork.tensors)) + cache_bytes(going.cache) <= going.fork_bytes:
            after = replace(after, fork=fork)
    return reduced(after, steps)


def _through(
    layer: nn.Module,
    hidden: Tensor,
    rope: tuple[Tensor, ...],
    cache: DynamicCache,
    shown: Shown | None,
    mask: Tensor | None,
) -> Tensor:
    """One layer; causal, by SDPA's own flag where there is no mask.

    It gets no position ids: flash attention would take the gaps between survivors for the seams of
    packed sequences, and RoPE has them already.
    """
    more: dict[str, Any] = {} if shown is None else {"observe": shown}
    out = layer(
        hidden,
        attention_mask=mask,
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


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of all keys and values that the cache really holds."""
    held = [getattr(layer, part) for layer in cache.layers for part in ("keys", "values")]
    return sum(part.numel() * part.element_size() for part in held if part is not None)
