"""Filter, correlate, compress: the three steps every training-free reduction is made of.

The paradigm is that of FiCoCo (arXiv 2411.17686, section 3): the filter decides which tokens are
redundant, the correlation how much each of them relates to each kept one, the compression how
their information goes into the kept ones. Knows nothing about any method, model or schedule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from torch import Tensor

from tokenreduce.tokens import Seen, Split, Tokens

Site = Literal["frames", "clip", "llm"]


class Method(Protocol):
    """A published method: a frozen dataclass whose fields are its numbers."""

    @property
    def sites(self) -> frozenset[Site]:
        """Where it can act."""
        ...

    def rounds(self, n: int, keep: int, /) -> Iterable[int]:
        """Counts after each round on the way from n tokens to `keep`; the last is `keep`. Inside
        the LLM there is one round."""
        ...

    def filter(self, seen: Seen, keep: int, /) -> Split: ...

    def correlate(self, seen: Seen, split: Split, /) -> Tensor:
        """(b, n - m, m) float: how much of each dropped token goes to each kept one."""
        ...

    def compress(self, seen: Seen, split: Split, affinity: Tensor, /) -> Tokens:
        """The m tokens that remain, in ascending place."""
        ...


@dataclass(frozen=True)
class Choice:
    """What is decided before anything moves: which tokens go, and what each one's goes to.

    affinity (b, n - m, m), as `Method.correlate` gives it
    """

    split: Split
    affinity: Tensor


def choose(method: Method, seen: Seen, keep: int) -> Choice:
    """One round's filter and correlation."""
    split = method.filter(seen, keep)
    return Choice(split, method.correlate(seen, split))


def reduce(method: Method, seen: Seen, keep: int) -> Tokens:
    """`seen.tokens` brought to `keep` a row by `method`; untouched if there are no more than that.

    Raises ValueError if keep is negative or a method that needs attention is given none.
    """
    if keep < 0:
        raise ValueError(f"{keep = }: a count kept cannot be negative")
    n = seen.tokens.count
    if keep >= n:
        return seen.tokens
    for count in method.rounds(n, keep):
        choice = choose(method, seen, count)
        tokens = method.compress(seen, choice.split, choice.affinity)
        seen = replace(
            seen,
            tokens=tokens,
            metric=_carried(method, seen, choice, tokens),
            attention=None,  # it was of the tokens before this round
            visual=None,
        )
    return seen.tokens


def _carried(method: Method, seen: Seen, choice: Choice, tokens: Tokens) -> Tensor:
    """The metric of the next round: it goes the way the features go (AIM, official image code)."""
    if seen.metric is seen.tokens.x:
        return tokens.x
    metric = replace(seen, tokens=seen.tokens.with_x(seen.metric))
    return method.compress(metric, choice.split, choice.affinity).x
