"""PyramidDrop: the LLM in four stages, after each of which a share of the visual tokens goes.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual
Redundancy Reduction", CVPR 2025, arXiv 2410.17247, section 3.2, equations 2 (rank) and 3 (counts).
Official repository: Cooperx521/PyramidDrop, functions pdrop_forward and pdrop_rank_drop.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule, Steps
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import attention_of_last, nowhere, once, prune
from tokenreduce.tokens import Split
from tokenreduce.work import Cost, Sizes, attending

_QUARTERS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))


@dataclass(frozen=True)
class PyramidDrop:
    """Keeps the visual tokens that the last position attends to most: FastV's rank, in stages.

    Usual schedule: at 1/4, 1/2 and 3/4 of the depth half is left of what there was, as
    int(V / 2), int(V / 4), int(V / 8) of the V at the start; counts are not rounded one upon
    another.

    We follow the code where the paper differs: it ranks by the product of the last instruction
    token's query with the keys, the code by the softmax of it, averaged over heads, which makes
    heads of different scale comparable. The code takes query and keys of the layer *after* the
    stage, projected from what left the stage. So does this one, by acting after layer index 8, 16
    and 24 of 32: the choice is exactly the official one, and one more layer of each stage sees all
    of its tokens (mean .496 V instead of .469 V). At inference the code's "last instruction token"
    is the last position of the prompt, the template's end included. Not followed: positions are
    packed anew after every drop; here survivors keep theirs. The code multiplies query heads with
    ungrouped key heads and so cannot run grouped-query attention; here heads share keys. Ties fall
    as torch.topk leaves them; here the lower index wins.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Steps(_QUARTERS, Fraction(1, 2))
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)

    def filter(self, seen: Seen, keep: int) -> Split:
        return Split.of_score(attention_of_last(seen), keep)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """The last row of attention, once more; no projections, for the running layer's serve."""
        return attending(sizes, 1)
