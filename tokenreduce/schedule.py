"""How many visual tokens may leave each layer of the LLM; knows nothing about which ones.

Schedules speak of fractions of the depth, so that one preset means the same on any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol


class Schedule(Protocol):
    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        """Visual tokens that may leave `layer` (0-indexed, of `depth`).

        `visual` is the count that entered layer 0, never what remains. Never rises with `layer`.
        """
        ...


@dataclass(frozen=True)
class Full:
    """Every token leaves every layer: no pruning inside the LLM."""

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        return visual


@dataclass(frozen=True)
class Ramp:
    """AIM's schedule (arXiv 2412.03248, section 3.3): all up to `first`, none from `last`.

    With l1 = first * depth and l2 = last * depth, not rounded, layer i leaves
    floor(V * clip(1 - (i + 1 - l1) / (l2 - l1), 0, 1)) visual tokens. first and last are shares of
    the depth in [0, 1]; the paper's are 14/28 and 22/28 for Qwen2-7B, 13/32 and 21/32 for
    Vicuna-7B. Exact fractions, because floor of a rounded product is one token short.
    """

    first: Fraction = Fraction(1, 2)
    last: Fraction = Fraction(11, 14)

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(
                f"first {self.first}, last {self.last}: a ramp needs 0 <= first < last"
            )

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        first, last = self.first * depth, self.last * depth
        share = 1 - (layer + 1 - first) / (last - first)
        return int(visual * min(max(share, Fraction(0)), Fraction(1)))


@dataclass(frozen=True)
class Once:
    """A share `keep` of the tokens leaves the layer at `after` of the depth and every later one.

    after is in [0, 1): 0 acts after the first layer. keep is in [0, 1].
    """

    after: Fraction
    keep: Fraction

    def __post_init__(self) -> None:
        if not 0 <= self.after < 1:
            raise ValueError(f"after {self.after}: a share of the depth, at least 0 and below 1")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep {self.keep}: a share kept, from 0 to 1")

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        return int(visual * self.keep) if layer >= int(self.after * depth) else visual


SCHEDULES: dict[str, type[Schedule]] = {"full": Full, "ramp": Ramp, "once": Once}
