"""A prompt on its way through the layers: what there is of it between two of them, what a stem has
of it already, and what of it leaves. Knows no family of models and runs no layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.engine.choosing import Standing, Step
from tokenreduce.engine.stem import Fork, Stem, joined
from tokenreduce.engine.types import Prompt, Prune
from tokenreduce.paradigm import Method
from tokenreduce.tokens import Tokens

if TYPE_CHECKING:  # importing transformers takes longer than all else here
    from transformers import DynamicCache


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


def due_after(
    prunes: Sequence[Prune], layer: int, depth: int, state: State
) -> list[tuple[Method, int]]:
    """The methods that have something to remove after `layer`, and how many tokens each leaves."""
    due, count = [], state.visual.shape[0]
    for prune in prunes:
        keep = prune.schedule.kept(layer, depth, state.entered)
        if keep < count:
            due.append((prune.method, keep))
            count = keep
    return due


def entering(state: State) -> Tensor:
    """(1, l', d): what enters a layer, what stands in a fork included."""
    if not state.read:
        return state.hidden
    if state.behind is None or state.behind.layer != state.layer:
        raise ValueError(f"layer {state.layer} is to choose among positions it was not kept for")
    return joined(state.behind.entering, state.hidden)


def advanced(state: State, hidden: Tensor) -> State:
    """The state with what left its layer; after the fork's layer, that of all positions."""
    if not state.read or state.behind is None or state.behind.layer != state.layer:
        return replace(state, hidden=hidden)
    return replace(state, hidden=joined(state.behind.leaving, hidden), read=0, behind=None)


def mask_of(state: State) -> Tensor | None:
    """(1, 1, l' - read, l') bool, what each position sees; None where SDPA's own flag says it."""
    if not state.read:
        return None
    length = state.position.shape[0]
    at = torch.arange(length, device=state.hidden.device)
    return (at <= at[state.read :, None])[None, None]


def standing(state: State) -> Standing:
    """The visual tokens of a state, with the features they have there, on its device."""
    device = state.hidden.device
    visual, tokens = state.visual.to(device), state.tokens
    x = state.hidden.index_select(1, visual)
    here = Tokens(x, tokens.size.to(device), tokens.place.to(device))
    return Standing(here, visual, state.hidden.shape[1])


def reduced(state: State, steps: Sequence[Step]) -> tuple[State, Tensor]:
    """The state after `steps`, and the indices of all that stay among its l'."""
    before = standing(state)
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
