"""AIM's pruning of visual tokens inside the LLM, by multi-modal importance.

Zhong et al., "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning", ICCV
2025, arXiv 2412.03248, "Token Pruning within LLM" (section not verified). Official repository:
LaVi-Lab/AIM, function get_importance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokenreduce.importance import importance, ranked
from tokenreduce.paradigm import Site
from tokenreduce.schedule import Ramp, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import nowhere, once, prune
from tokenreduce.tokens import Split
from tokenreduce.work import SOFTMAX, Cost, Sizes


@dataclass(frozen=True)
class AimPrune:
    """Keeps the visual tokens that attention flows to, from all positions, text included.

    temperature: divides the logits before the softmax; iterations: steps of PageRank; damping:
    share that restarts evenly. The defaults are the official code's; the paper's equation is one
    step, without temperature.

    Official code: pruned tokens are only masked and go on voting in later layers; here they are
    gone, so only survivors vote. Official code: ties fall as an unstable sort leaves them; here
    the earlier iterates decide, then the lower index.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"llm"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Ramp()
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)
    temperature: float = 0.1
    iterations: int = 5
    damping: float = 0.0

    def filter(self, seen: Seen, keep: int) -> Split:
        n = seen.tokens.count
        if keep == 0:  # nothing to choose, so nothing to score
            return Split.of_keep(seen.tokens.place[:, :0], n)
        attention, visual = seen.need_attention()
        score = importance(
            attention,
            temperature=self.temperature,
            iterations=self.iterations,
            damping=self.damping,
        )
        return Split.of_keep(ranked(score[:, :, visual])[:, :keep], n)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        """q k^T once more, its softmax and the PageRank steps, over the n (n + 1) / 2 pairs that
        are not in the future."""
        if keep == 0:
            return Cost()
        pairs = sizes.length * (sizes.length + 1) // 2 * sizes.heads
        products = 2 * pairs * (sizes.head_width + self.iterations)
        return Cost(products, SOFTMAX * pairs)
