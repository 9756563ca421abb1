"""What leaves after a layer, chosen while the layer attends; knows no family of models.

Choosing needs a layer's queries and keys, moving needs its output. Done at those two moments,
queries and keys live no longer than in the stock forward, and scoring adds nothing to the peak of
memory, which the MLP makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.errors import ModelError
from tokenreduce.paradigm import Choice, Method, choose
from tokenreduce.seen import Seen
from tokenreduce.tokens import Attention, Tokens, marked


@dataclass(frozen=True)
class Standing:
    """Visual tokens among the positions of a sequence.

    tokens  one row of n      visual  (n,) int64, where they stand      length  of the sequence
    """

    tokens: Tokens
    visual: Tensor
    length: int

    def to(self, device: torch.device) -> Standing:
        tokens = self.tokens
        parts = (part.to(device) for part in (tokens.x, tokens.size, tokens.place))
        return Standing(Tokens(*parts), self.visual.to(device), self.length)

    def after(self, left: Tokens) -> tuple[Standing, Tensor]:
        """With only the tokens `left` and all text; and which of the positions (l',) int64 stay.

        Raises ValueError, on a CPU, if `left` has places that were not there.
        """
        visual = self.visual[_indices(left.place[0], self.tokens.place[0])]
        stays = torch.ones(self.length, dtype=torch.bool, device=visual.device)
        stays.index_fill_(0, self.visual, False).index_fill_(0, visual, True)
        kept = marked(stays, self.length - self.visual.shape[0] + visual.shape[0])
        at = torch.searchsorted(kept, visual)
        return Standing(left, at, kept.shape[0]), kept


@dataclass(frozen=True)
class Step:
    """One method's choice. seen: what it was made from, without features and attention."""

    method: Method
    seen: Seen
    choice: Choice

    def applied(self, tokens: Tokens) -> Tokens:
        """To the features of a later moment."""
        seen = replace(self.seen, tokens=tokens, metric=tokens.x)
        return self.method.compress(seen, self.choice.split, self.choice.affinity)


@dataclass
class Chooser:
    """Shown a layer's attention once, it chooses by each method in turn.

    standing  called then; what entered the layer
    due       methods and how many tokens each leaves, falling
    embeds    (1, l, d)  what entered layer 0
    position  (l',) int64, which of the l are left
    grid      of the raw sequence that the tokens' places count along
    depth     (layer, layers)
    """

    standing: Callable[[], Standing]
    due: Sequence[tuple[Method, int]]
    embeds: Tensor
    position: Tensor
    grid: Layout
    depth: tuple[int, int]
    seed: int
    _steps: list[Step] = field(default_factory=list)
    _shown: int = 0

    def __call__(self, q: Tensor, k: Tensor, scale: float) -> None:
        self._shown += 1
        device = q.device  # of the layer, to which what entered it may be on its way
        here = self.standing().to(device)
        attention = Attention(q, k.to(device), scale, causal=True)
        position = self.position.to(device)
        for i, (method, keep) in enumerate(self.due):
            tokens = here.tokens
            seen = Seen(
                tokens,
                tokens.x,
                self.grid,
                here.visual,
                attention,
                entered=partial(_rows, self.embeds, position),
                seed=self.seed,
                depth=self.depth,
            )
            choice = choose(method, seen, keep)
            bare = tokens.bare()
            kept_seen = replace(seen, tokens=bare, metric=bare.x, attention=None, entered=None)
            self._steps.append(Step(method, kept_seen, choice))
            if i + 1 < len(self.due):  # the next one sees what this one leaves
                here, kept = here.after(self._steps[-1].applied(tokens))
                attention = _among(attention, kept)
                position = position[kept]

    def steps(self) -> Sequence[Step]:
        """Raises ModelError unless the layer has shown its attention once."""
        if self._shown != 1:
            raise ModelError(
                f"the attention of layer {self.depth[0]} was seen {self._shown} times instead of "
                "once: prepare the model with tokenreduce.engine.attention.make_observable"
            )
        return self._steps


def _indices(of: Tensor, among: Tensor) -> Tensor:
    """Where each of the ascending numbers `of` stands in the ascending numbers `among`.

    Checked on a CPU alone: a GPU would be waited for in every pruned layer.
    """
    index = torch.searchsorted(among, of.contiguous())
    if of.device.type != "cpu" or of.shape[0] == 0:
        return index
    if index[-1] >= among.shape[0] or bool((among[index] != of).any()):
        raise ValueError("a method returned tokens in places that it was not given")
    return index


def _rows(embeds: Tensor, position: Tensor) -> Tensor:
    return embeds[0].index_select(0, position.to(embeds.device))


def _among(attention: Attention, kept: Tensor) -> Attention:
    """The same layer's attention among the positions that stay."""
    return replace(
        attention, q=attention.q.index_select(2, kept), k=attention.k.index_select(2, kept)
    )
