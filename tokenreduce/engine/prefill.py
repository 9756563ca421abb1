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

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.engine.choosing import Chooser, Standing, Step
from tokenreduce.engine.stem import Fork, Shown, Stem, bytes_of, joined
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
    hidden     (1, l' - read, d)  its input
    position   (l',) int64, original positions of what is left, ascending
    visual     (n',) int64, where the visual tokens stand among the l'
    tokens     their sizes and places, without features
    embeds     (1, l, d)  what entered layer 0, for methods that compare text and images by it
    entered    visual tokens that entered layer 0
    grid       of the raw sequence that the tokens' places count along
    per_layer  visual tokens that each layer so far attended to
    read       of the l', how many come first and stand in the cache only: a Stem's, until behind
    behind     the layer at which those come back; None where nothing is chosen in any layer
    fork       the first layer after which something was chosen, where `run` was to keep it
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
    read: int = 0
    behind: Fork | None = None
    fork: Fork | None = None


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


def resume(
    state: State, stem: Stem, prunes: Sequence[Prune], depth: int, cache: DynamicCache
) -> State:
    """The state before layer 0 without what the stem of the same model has read of it, which goes
    into the empty `cache`; as it was where nothing can be taken from there.

    The prompt's own visual tokens, prunes and question count; those of the stem need not be equal.
    """
    read = stem.shared(state.embeds, first_choice(prunes, depth, state.entered))
    if read == 0:
        return state
    stem.fill(cache, read)
    behind = None if stem.fork is None else stem.fork.first(read)
    return replace(state, hidden=state.hidden[:, read:], read=read, behind=behind)


def first_choice(prunes: Sequence[Prune], depth: int, visual: int) -> int | None:
    """The first of `depth` layers after which some of `visual` tokens leave; None for nowhere."""
    for layer in range(depth):
        if any(prune.schedule.kept(layer, depth, visual) < visual for prune in prunes):
            return layer
    return None


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
    mask = _mask(state)
    for layer in layers[state.layer : len(layers) if stop is None else stop]:
        state, kept = _step(layer, state, going, rope, mask if state.read else None)
        if kept is not None:
            rope = tuple(part.index_select(1, kept.to(part.device)) for part in rope)
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
    due = _due(going.prunes, index, going.depth, state)
    rope = tuple(part[:, state.read :] for part in rope)
    per_layer = (*state.per_layer, count)
    if not due:
        hidden = _through(layer, state.hidden, rope, going.cache, None, mask)
        return replace(_whole(state, hidden), layer=index + 1, per_layer=per_layer), None
    whole = replace(state, hidden=_entering(state))
    chooser = Chooser(
        partial(_standing, whole),
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
    after = replace(_whole(state, hidden), layer=index + 1, per_layer=per_layer)
    if keeps:
        fork = Fork(index, whole.hidden, after.hidden, shown.queries[0])
        if bytes_of((state.embeds, *fork.tensors)) + cache_bytes(going.cache) <= going.fork_bytes:
            after = replace(after, fork=fork)
    return _reduced(after, steps)


def _entering(state: State) -> Tensor:
    """(1, l', d): what enters a layer, what stands in a fork included."""
    if not state.read:
        return state.hidden
    if state.behind is None or state.behind.layer != state.layer:
        raise ValueError(f"layer {state.layer} is to choose among positions it was not kept for")
    return joined(state.behind.entering, state.hidden)


def _whole(state: State, hidden: Tensor) -> State:
    """The state with what left its layer; after the fork's layer, that of all positions."""
    if not state.read or state.behind is None or state.behind.layer != state.layer:
        return replace(state, hidden=hidden)
    return replace(state, hidden=joined(state.behind.leaving, hidden), read=0, behind=None)


def _mask(state: State) -> Tensor | None:
    """(1, 1, l' - read, l') bool, what each position sees; None where SDPA's own flag says it."""
    if not state.read:
        return None
    length = state.position.shape[0]
    at = torch.arange(length, device=state.hidden.device)
    return (at <= at[state.read :, None])[None, None]


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
