"""Filter, correlate, compress: the three steps every training-free reduction is made of.

The paradigm is that of FiCoCo (arXiv 2411.17686, section 3): the filter decides which tokens are
redundant, the correlation how much each of them relates to each kept one, the compression how
their information goes into the kept ones. Knows nothing about any method, model or schedule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from tokenreduce.schedule import Schedule
from tokenreduce.seen import Evidence, Need, Seen
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes

Site = Literal["encoder", "frames", "clip", "llm"]
"""Between the encoder's layers; after it, on each frame by itself; after it, on the whole clip;
between the layers of the LLM."""


class Method(Protocol):
    """A published method: a frozen dataclass whose fields are its numbers.

    One that merges inside the encoder may have a class variable `proportional = True` besides: in
    the layers after it, attention counts a merged token by its size (ToMe, arXiv 2210.09461).
    """

    @property
    def sites(self) -> frozenset[Site]:
        """Where it can act."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads of the encoder's last layer at the sites after the encoder. With "keys",
        similarity is measured on them, else on the features."""
        ...

    @property
    def usual(self) -> Schedule | None:
        """Its schedule inside the LLM or the encoder where no preset says another."""
        ...

    def rounds(self, n: int, keep: int, /) -> Iterable[int]:
        """Counts after each round on the way from n tokens to `keep`; the last is `keep`. Inside
        the LLM there is one round."""
        ...

    def filter(self, seen: Seen, keep: int, /) -> Split: ...

    def correlate(self, seen: Seen, split: Split, /) -> Affinity:
        """How much of each dropped token goes to which kept ones."""
        ...

    def compress(self, seen: Seen, split: Split, affinity: Affinity, /) -> Tokens:
        """The m tokens that remain, in ascending place."""
        ...

    def work(self, sizes: Sizes, keep: int, /) -> Cost:
        """What one round from sizes.n to `keep` computes, beside what the model computes anyway."""
        ...


@dataclass(frozen=True)
class Choice:
    """What is decided before anything moves: which tokens go, and what each one's goes to."""

    split: Split
    affinity: Affinity


def choose(method: Method, seen: Seen, keep: int) -> Choice:
    """One round's filter and correlation."""
    split = method.filter(seen, keep)
    return Choice(split, method.correlate(seen, split))


def reduce(method: Method, seen: Seen, keep: int) -> Tokens:
    """`seen.tokens` brought to `keep` a row by `method`; untouched if there are no more than that.

    Raises ValueError if keep is negative or a method that needs attention is given none.
    """
    counts = _counts(method, seen, keep, seen.tokens.count)
    for count in counts[:-1]:
        seen = _round(method, seen, count)
    if not counts:
        return seen.tokens
    choice = choose(method, seen, keep)
    return method.compress(seen, choice.split, choice.affinity)


def reduced(method: Method, seen: Seen, keep: int, began: int) -> Seen:
    """As `reduce`, and what may be reduced further: with the metric and the evidence of what is
    left. began: the count before any reduction; where `seen` lies on the way of `method` from there
    to `keep`, it goes on along it, as if it had never stopped."""
    for count in _counts(method, seen, keep, began):
        seen = _round(method, seen, count)
    return seen


def _counts(method: Method, seen: Seen, keep: int, began: int) -> list[int]:
    if keep < 0:
        raise ValueError(f"{keep = }: a count kept cannot be negative")
    n = seen.tokens.count
    return [count for count in method.rounds(began, keep) if count < n] if keep < n else []


def _round(method: Method, seen: Seen, count: int) -> Seen:
    """One round, and what the next may look at."""
    choice = choose(method, seen, count)
    tokens = method.compress(seen, choice.split, choice.affinity)
    return replace(
        seen,
        tokens=tokens,
        metric=_carried(method, seen, choice, tokens),
        attention=None,  # it was of the tokens before this round
        visual=None,
        evidence=_left(seen, tokens),
    )


def _carried(method: Method, seen: Seen, choice: Choice, tokens: Tokens) -> Tensor:
    """The metric of the next round: it goes the way the features go (AIM, official image code)."""
    if seen.metric is seen.tokens.x:
        return tokens.x
    metric = replace(seen, tokens=seen.tokens.with_x(seen.metric))
    return method.compress(metric, choice.split, choice.affinity).x


def _left(seen: Seen, tokens: Tokens) -> Evidence | None:
    """Evidence of the tokens that are left, wherever their information came from."""
    if seen.evidence is None:
        return None
    before, after = seen.tokens.place.contiguous(), tokens.place.contiguous()
    return seen.evidence.take(torch.searchsorted(before, after))
