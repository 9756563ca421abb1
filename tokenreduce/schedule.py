"""How many visual tokens may leave each layer of the LLM; knows nothing about which ones.

Schedules speak of fractions of the depth, so that one preset means the same on any model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Protocol


class Schedule(Protocol):
    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        """Visual tokens that may leave `layer` (0-indexed, of `depth`).

        `visual` is the count that entered layer 0, never what remains. Never rises with `layer`.
        """
        ...

    def eased(self, ease: Fraction, /) -> Schedule:
        """The same shape from its strictest, ease 0, to one that removes next to nothing, ease 1;
        kept counts never fall as ease rises."""
        ...


@dataclass(frozen=True)
class Full:
    """Every token leaves every layer: no pruning inside the LLM."""

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        return visual

    def eased(self, ease: Fraction, /) -> Schedule:
        return self


@dataclass(frozen=True)
class Ramp:
    """AIM's schedule (arXiv 2412.03248): all up to `first`, none from `last`.

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

    def eased(self, ease: Fraction, /) -> Schedule:
        """Both ends move together towards the first layer, or out behind the last one."""
        factor = max(ease, Fraction(1, 1 << 24)) * (1 / self.first if self.first else 4 / self.last)
        return Ramp(self.first * factor, self.last * factor)


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

    def eased(self, ease: Fraction, /) -> Schedule:
        return replace(self, keep=ease)


@dataclass(frozen=True)
class Even:
    """Equal steps between `first` and `last` of the depth, down to a share `keep`.

    The schedules of ToMe and of FiCoCo: the same number of tokens leaves every layer of a range.
    With l1 = first * depth and l2 = last * depth, not rounded, layer i leaves
    ceil(V (1 - (1 - keep) clip((i + 1 - l1) / (l2 - l1), 0, 1))), and floor(V keep) at the end.
    """

    first: Fraction = Fraction(0)
    last: Fraction = Fraction(1)
    keep: Fraction = Fraction(1, 4)

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= 1:
            raise ValueError(
                f"first {self.first}, last {self.last}: equal steps need 0 <= first < last <= 1"
            )
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep {self.keep}: a share kept, from 0 to 1")

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        first, last = self.first * depth, self.last * depth
        done = min(max((layer + 1 - first) / (last - first), Fraction(0)), Fraction(1))
        if done == 1:
            return int(visual * self.keep)
        return ceil(visual * (1 - (1 - self.keep) * done))

    def eased(self, ease: Fraction, /) -> Schedule:
        """Below one half the steps get larger and end in nothing earlier; above it they get
        smaller and leave more."""
        if 2 * ease >= 1:
            return Even(self.first, Fraction(1), 2 * ease - 1)
        share = max(2 * ease, Fraction(1, 1 << 24))
        return Even(self.first, self.first + (1 - self.first) * share, Fraction(0))


@dataclass(frozen=True)
class Steps:
    """A share `keep` of what is left survives each of the layers at `after` of the depth.

    PyramidDrop's stages (arXiv 2410.17247) and EViT's three layers (arXiv 2202.07800).
    """

    after: tuple[Fraction, ...]
    keep: Fraction

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in pairwise(self.after))
        if not self.after or not ascending or not self.after[0] >= 0 or not self.after[-1] < 1:
            raise ValueError(
                f"after {', '.join(map(str, self.after)) or 'nothing'}: rising shares of the "
                "depth, at least 0 and below 1"
            )
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep {self.keep}: a share kept, from 0 to 1")

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        stages = sum(layer >= int(share * depth) for share in self.after)
        return int(visual * self.keep**stages)

    def eased(self, ease: Fraction, /) -> Schedule:
        return replace(self, keep=ease)


@dataclass(frozen=True)
class Levels:
    """A share keep[i] of the tokens at the start leaves the layer at after[i] of the depth and
    those up to the next: SparseVLM's counts a layer (arXiv 2410.04417).

    On a shallow model several of them may fall on one layer; the last of them holds.
    """

    after: tuple[Fraction, ...]
    keep: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in pairwise(self.after))
        if not self.after or not ascending or not self.after[0] >= 0 or not self.after[-1] < 1:
            raise ValueError(
                f"after {', '.join(map(str, self.after)) or 'nothing'}: rising shares of the "
                "depth, at least 0 and below 1"
            )
        if len(self.keep) != len(self.after):
            raise ValueError(
                f"{len(self.keep)} shares to keep after {len(self.after)} layers: one share each"
            )
        falling = (Fraction(1), *self.keep, Fraction(0))
        if not all(a >= b for a, b in pairwise(falling)):
            raise ValueError(f"keep {', '.join(map(str, self.keep))}: falling shares, from 1 to 0")

    def kept(self, layer: int, depth: int, visual: int, /) -> int:
        level = sum(layer >= int(share * depth) for share in self.after)
        return int(visual * self.keep[level - 1]) if level else visual

    def eased(self, ease: Fraction, /) -> Levels:
        """At ease 1/2 its own shares; below, in proportion to the ease; above, ever nearer to 1."""
        if 2 * ease <= 1:
            return replace(self, keep=tuple(share * 2 * ease for share in self.keep))
        return replace(self, keep=tuple(1 - (1 - share) * (2 - 2 * ease) for share in self.keep))


SCHEDULES: dict[str, type[Schedule]] = {
    "full": Full,
    "ramp": Ramp,
    "once": Once,
    "even": Even,
    "steps": Steps,
    "levels": Levels,
}
