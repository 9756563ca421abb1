"""FastV: one cut in an early layer of the LLM, by attention from the last position.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, arXiv 2403.06764, section 4.1
(in words, no equation). Official repository: pkunlp-icler/FastV, functions LlamaModel.forward
(fast_v_inplace) and fastv_forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Once, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import attention_of_last, nowhere, once, prune
from tokenreduce.tokens import Split
from tokenreduce.work import Cost, Sizes, attending


@dataclass(frozen=True)
class FastV:
    """Keeps the visual tokens that the last position of the prompt attends to most.

    Usual schedule: K = 2 layers see everything, half of it goes on (the paper's K and R). 1/24 of
    the depth is the second layer of every model of 24 to 47 layers, and the first of smaller ones.

    We follow the code where the paper differs: it ranks by "the average attention-score one token
    received from all other tokens", its code (all three forwards) by the last row alone. That made
    the published numbers, needs no l x l matrix, and does not favour early tokens, which under a
    causal mask more queries see. Tokens leave once, at prefill (fast_v_inplace, fastv_forward), not
    masked and ranked anew for every token of the answer (the paper's figures). Not followed:
    lmms-eval's forward runs layer K - 1 twice and appends its keys twice. K = 0, random tokens in
    the code, is the control "random". Ties fall as torch.topk leaves them; here the lower index
    wins.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Once(Fraction(1, 24), Fraction(1, 2))
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)

    def filter(self, seen: Seen, keep: int) -> Split:
        return Split.of_score(attention_of_last(seen), keep)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """The last row of attention, once more."""
        return attending(sizes, 1)
