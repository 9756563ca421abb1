"""Controls: what any method has to beat at the same number of tokens.

They look at nothing but positions and a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

import torch

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Ramp, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import at_once, nowhere, once, prune
from tokenreduce.tokens import Split

_EVERYWHERE: frozenset[Site] = frozenset({"encoder", "frames", "clip", "llm"})


@dataclass(frozen=True)
class Uniform:
    """Keeps tokens at an even stride, the same places in every row."""

    sites: ClassVar[frozenset[Site]] = _EVERYWHERE
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Ramp()
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)
    work = staticmethod(at_once)

    def filter(self, seen: Seen, keep: int) -> Split:
        b, n = seen.tokens.size.shape
        # The middle of each of `keep` equal parts, so that neither end of the row is favoured.
        part = torch.arange(keep, device=seen.tokens.place.device)
        middle = (2 * part + 1) * n // (2 * max(1, keep))
        return Split.of_keep(middle.expand(b, keep), n)


@dataclass(frozen=True)
class Random:
    """Keeps tokens drawn without replacement, another draw in each row, from the run's seed.

    Of a row that is a frame, the draw is by the seed, the frame and the two counts alone: it does
    not ask in which batch a frame comes, nor on which device.
    """

    sites: ClassVar[frozenset[Site]] = _EVERYWHERE
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Ramp()
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)
    work = staticmethod(at_once)

    def filter(self, seen: Seen, keep: int) -> Split:
        b, n = seen.tokens.size.shape
        # On the CPU, so that every device draws the same; salted by the counts, so that two layers
        # of one run do not draw alike.
        generator = torch.Generator()
        if seen.rows is None:
            generator.manual_seed(seen.seed * 1_000_003 + n * 1009 + keep)
            score = torch.rand(b, n, generator=generator)
        else:
            drawn = []
            for row in seen.rows.tolist():
                generator.manual_seed(_mixed(seen.seed, row, n, keep))
                drawn.append(torch.rand(n, generator=generator))
            score = torch.stack(drawn)
        return Split.of_score(score.to(seen.tokens.x.device), keep)


def _mixed(*numbers: int) -> int:
    """A seed of 63 bits; no two lists of numbers that meet in practice give the same one."""
    digest = blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
