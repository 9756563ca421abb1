"""How much a computation computes, and the sizes a method computes with; no tensors, no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Cost:
    """Floating-point operations. matmul: in matrix products; elementwise: all others counted."""

    matmul: int = 0
    elementwise: int = 0

    @property
    def total(self) -> int:
        return self.matmul + self.elementwise

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.matmul + other.matmul, self.elementwise + other.elementwise)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.matmul * times, self.elementwise * times)


NOTHING = Cost()


@dataclass(frozen=True)
class Sizes:
    """What a method meets where it acts, in numbers.

    rows, n  b rows of n visual tokens       channels  d of the features
    metric   e of what similarity is measured on
    heads    of the attention it may read, each of head_width; length: all its positions, 0 after
             the encoder, where no layer attends and what it showed is counted by itself
    frames   that the n are of, where a row is a clip
    has_class  after the encoder: it has a class token, which its attention was looked at for
    """

    rows: int
    n: int
    channels: int
    metric: int = 0
    heads: int = 0
    head_width: int = 0
    length: int = 0
    frames: int = 1
    has_class: bool = False

    @property
    def text(self) -> int:
        """Positions of the attention that are not visual."""
        return self.length - self.n


SOFTMAX = 5
"""Operations per attention weight."""


def attending(sizes: Sizes, queries: int) -> Cost:
    """Attention weights of `queries` rows over all positions, made once more to be looked at."""
    pairs = sizes.rows * queries * sizes.length * sizes.heads
    return Cost(2 * pairs * sizes.head_width, SOFTMAX * pairs)


def matching(sizes: Sizes, keep: int) -> Cost:
    """A bipartite round: every even token against every odd one, after scaling to length 1, then
    a sum into what stays."""
    return bipartite(sizes.metric or sizes.channels, sizes.rows, [sizes.n, keep], sizes.channels)


def bipartite(metric: int, rows: int, counts: Sequence[int], channels: int) -> Cost:
    """Rounds of `matching` of `rows` rows whose count goes through `counts`, the first included."""
    cost = Cost()
    for before, after in pairwise(counts):
        even, odd = (before + 1) // 2, before // 2
        moved = (before - after + 2 * after) * channels
        cost += Cost(2 * even * odd * metric, 3 * before * metric + moved)
    return cost * rows
