"""The layers of a vision tower, between which visual tokens really leave; knows no tower by name.

A loop over the encoder layers of transformers' SigLIP or CLIP kind. After a layer, reductions act
on what left it, seen with the attention it has just computed; what they remove is missing from the
next layer on. Class tokens come first and never leave. Every row (a frame) loses equally many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Any

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.engine.types import Prune
from tokenreduce.paradigm import Method, reduce
from tokenreduce.schedule import Even, Once, Schedule
from tokenreduce.seen import Seen
from tokenreduce.tokens import Attention, Tokens

Show = Callable[[Any, Tensor], Attention]
"""A layer's attention over its input (b, l, d); a family's own, since layers differ in names."""

_FINE = 1 << 40  # tokens of an imagined row, on which a schedule's shape is read without rounding


@dataclass(frozen=True)
class ToCount:
    """The shape of a schedule, brought to exactly `keep` tokens after the last layer.

    With p_i the share of all its removals that `shape` has made after layer i, layer i leaves
    n - floor((n - keep) p_i). Raises ValueError on use if `shape` removes nothing.
    """

    shape: Schedule
    keep: int

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"{self.keep} tokens kept: a row needs at least 1")

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        if self.keep >= visual:
            return visual
        if isinstance(self.shape, Even | Once):  # they have the exact share themselves
            exact = replace(self.shape, keep=Fraction(self.keep, visual))
            return exact.kept(layer, depth, visual)
        removed = _FINE - self.shape.kept(depth - 1, depth, _FINE)
        if removed == 0:
            raise ValueError(f"{self.shape} removes nothing, so it cannot come to {self.keep}")
        done = Fraction(_FINE - self.shape.kept(layer, depth, _FINE), removed)
        return visual - floor((visual - self.keep) * done)

    def eased(self, ease: Fraction, /) -> ToCount:
        """Another way to the same count."""
        return replace(self, shape=self.shape.eased(ease))


@dataclass(frozen=True)
class Encoded:
    """What left the tower's last layer, and what the rest needs to know of it.

    hidden     (b, c + m, d), class tokens first
    tokens     of the m that are left: x is their part of hidden (b, m, d)
    per_layer  visual tokens of a row that each layer attended to
    shown      (b, c + n', d), what entered the last layer, and `entered`, the n' tokens in it
               without features: for evidence of that layer
    """

    hidden: Tensor
    tokens: Tokens
    per_layer: tuple[int, ...]
    shown: Tensor
    entered: Tokens


def run(
    layers: Iterable[Any],
    hidden: Tensor,
    classes: int,
    reductions: Sequence[Prune],
    grid: Layout,
    show: Show,
    *,
    seed: int = 0,
    proportional: bool = False,
    rows: Tensor | None = None,
) -> Encoded:
    """All `layers` over `hidden` (b, c + n, d), c = `classes`; the reductions act in their order.

    grid          of one frame without newlines, n = rows x columns
    show          what a layer attends with; asked only where something is to leave
    proportional  attention counts a token as often as the patches it stands for: log(size) is
                  added to the logits (ToMe, arXiv 2210.09461, equation 1). Methods see the
                  attention without that
    rows          (b,) int64, the numbers of the frames in the video, see Seen

    A method sees the features that left the layer, the keys that layer had (mean over heads) as
    metric, and its attention; where it takes several rounds, the metric goes where the features
    go. With nothing to remove, each hidden state is bit for bit that of the plain loop.

    Raises ValueError if the grid does not hold n tokens.
    """
    stack = list(layers)
    n = hidden.shape[1] - classes
    if grid.frames != 1 or grid.available != n or not stack:
        raise ValueError(
            f"{n} visual tokens a row through {len(stack)} layers, not those of {grid}"
        )
    tokens = Tokens.fresh(hidden[:, classes:])
    per_layer: list[int] = []
    shown, entered = hidden, tokens
    for index, layer in enumerate(stack):
        per_layer.append(tokens.count)
        shown, entered = hidden, tokens
        hidden = layer(shown, _mask(tokens, classes, shown.dtype) if proportional else None)
        tokens = tokens.with_x(hidden[:, classes:])
        due = _due(reductions, index, len(stack), n, tokens.count)
        if not due:
            continue
        attention = show(layer, shown)
        for place, (method, keep) in enumerate(due):
            # What a second method sees is of the tokens that the first one left.
            among = attention if place == 0 else _among(attention, classes, entered, tokens)
            seen = _seen(tokens, among, grid, classes, seed, (index, len(stack)))
            tokens = reduce(method, replace(seen, rows=rows), keep)
        hidden = torch.cat([hidden[:, :classes], tokens.x.to(hidden.dtype)], dim=1)
    return Encoded(hidden, tokens, tuple(per_layer), shown, entered.bare())


def _due(
    reductions: Sequence[Prune], layer: int, depth: int, n: int, count: int
) -> list[tuple[Method, int]]:
    """The methods that have something to remove after `layer`, and how many tokens each leaves."""
    due = []
    for one in reductions:
        keep = one.schedule.kept(layer, depth, n)
        if keep < count:
            due.append((one.method, keep))
            count = keep
    return due


def _seen(
    tokens: Tokens,
    attention: Attention,
    grid: Layout,
    classes: int,
    seed: int,
    depth: tuple[int, int],
) -> Seen:
    visual = torch.arange(classes, classes + tokens.count, device=tokens.x.device)
    metric = attention.k[:, :, classes:].float().mean(dim=1)
    return Seen(tokens, metric, grid, visual, attention, seed=seed, depth=depth)


def _among(attention: Attention, classes: int, before: Tokens, after: Tokens) -> Attention:
    """The same layer's attention among the class tokens and the tokens still there; rows differ in
    which these are."""
    at = torch.searchsorted(before.place.contiguous(), after.place.contiguous()) + classes
    first = torch.arange(classes, device=at.device).expand(at.shape[0], classes)
    index = torch.cat([first, at], dim=1)[:, None, :, None]

    def chosen(part: Tensor) -> Tensor:
        return part.gather(2, index.expand(-1, part.shape[1], -1, part.shape[-1]))

    return replace(attention, q=chosen(attention.q), k=chosen(attention.k))


def _mask(tokens: Tokens, classes: int, dtype: torch.dtype) -> Tensor | None:
    """(b, 1, 1, c + n) added to the logits, or None while every token is one patch: a mask of
    zeros would choose another kernel, and other last bits."""
    if bool((tokens.size == 1).all()):
        return None
    bias = torch.cat([tokens.size.new_zeros(tokens.rows, classes), tokens.size.log()], dim=1)
    return bias[:, None, None].to(dtype)
