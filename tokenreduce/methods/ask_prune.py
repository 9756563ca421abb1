"""Pruning inside the LLM by what the question looks at: this project's own, a step of `drift`.

No paper of its own. SparseVLM (arXiv 2410.04417) ranks by chosen text tokens and FastV (arXiv
2403.06764) by the last one; here every position after the images asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Once, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import nowhere, once, prune
from tokenreduce.tokens import Split
from tokenreduce.work import Cost, Sizes, attending


@dataclass(frozen=True)
class AskPrune:
    """Keeps the visual tokens that the text after them attends to most, averaged over heads."""

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Once(Fraction(1, 4), Fraction(1, 4))
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)

    def filter(self, seen: Seen, keep: int) -> Split:
        attention, visual = seen.need_attention()
        text = seen.text
        asking = text[text > visual[-1]]
        return Split.of_score(attention.received(asking)[:, visual], keep)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        return attending(sizes, sizes.text)
