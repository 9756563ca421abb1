"""AIM's importance of tokens: a few steps of PageRank on sharpened attention, exact and blockwise.

Zhong et al., arXiv 2412.03248, section 3.3; the temperature, the number of steps and the root mean
square over heads are those of the official code (LaVi-Lab/AIM, get_importance). Knows nothing
about methods, models or which tokens are visual.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.tokens import Attention


def importance(
    attention: Attention,
    *,
    temperature: float = 0.1,
    iterations: int = 5,
    damping: float = 0.0,
    block_bytes: int | None = None,
) -> Tensor:
    """How much attention reaches each token, and how much it got on the way there.

    Per head, with logits Z and M = softmax(Z / temperature): p_0 = 1 / l and
    p_(t+1) = (1 - damping) p_t M + damping / l. Returns float32 (iterations, b, l): for each p_t,
    t = 1 .. iterations, the root mean square over heads. The last is the importance; the earlier
    ones tell apart tokens whose importance underflows to the same zero.

    M is lower triangular, so a column of p_(t+1) needs only rows at or below the diagonal: walking
    row blocks from the last to the first, every p_t of a block is final once the diagonal block
    has been stepped through. Each logit is computed once and no l x l tensor exists: at most two
    buffers of block_bytes (default 4 MiB on a CPU, so that they stay in its cache, else 64 MiB)
    or of 16 rows x heads x l, whichever is larger.

    Raises ValueError unless the attention is causal, temperature > 0, iterations >= 1 and damping
    is in [0, 1].
    """
    if not attention.causal:
        raise ValueError("importance walks backwards through causal attention; this one is not")
    if temperature <= 0 or iterations < 1 or not 0 <= damping <= 1:
        raise ValueError(f"{temperature = }, {iterations = }, {damping = }")
    b, h, length, _ = attention.q.shape
    step = attention.rows_within(block_bytes)
    future = torch.ones(step, step, dtype=torch.bool, device=attention.q.device).triu(1)
    weights = _Weights(attention, temperature, step)
    # reach[t] is p_t where the walk has been, and below it the sum of p_(t-1) M over the rows seen.
    reach = torch.zeros(iterations + 1, b * h, length, device=attention.q.device)
    reach[0] = 1 / length
    for stop in range(length, 0, -step):
        start = max(0, stop - step)
        m = weights.rows(start, stop, future)
        diagonal = m[:, :, start:].contiguous()
        for t in range(iterations):
            inside = torch.bmm(reach[t, :, None, start:stop], diagonal).squeeze(1)
            arrived = reach[t + 1, :, start:stop].add_(inside)
            if damping:
                arrived.mul_(1 - damping).add_(damping / length)
        if start:
            left = torch.bmm(reach[:-1, :, start:stop].transpose(0, 1), m[:, :, :start])
            reach[1:, :, :start] += left.transpose(0, 1)
    return reach[1:].view(iterations, b, h, length).square().mean(dim=2).sqrt()


def ranked(score: Tensor) -> Tensor:
    """Indices int64 (b, n) by falling score[-1], ties by score[-2], ..., at last the lower index.

    score: (iterations, b, n), as `importance` returns it for the tokens to be ranked.
    """
    order = torch.arange(score.shape[2], device=score.device).expand(score.shape[1:])
    for key in score:  # the least significant first: every sort is stable
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    return order


class _Weights:
    """Softmax of sharpened logits, a block of rows at a time, in two buffers used over and over.

    Rows of one group of query heads stand together in the product, so keys are never repeated.
    """

    def __init__(self, attention: Attention, temperature: float, step: int) -> None:
        b, h, length, width = attention.q.shape
        self._q = attention.q
        # float32: dividing by the temperature magnifies what a half precision would round away.
        keys = attention.k.float().reshape(-1, length, width)
        self._keys = keys.transpose(1, 2)
        self._sharp = attention.scale / temperature
        self._logits = keys.new_empty(b * h * step * length)
        self._softmax = keys.new_empty(b * h * step * length)

    def rows(self, start: int, stop: int, future: Tensor) -> Tensor:
        """float32 (b * h, stop - start, stop), until the next call."""
        b, h, _, width = self._q.shape
        rows, groups = stop - start, self._keys.shape[0]
        q = self._q[:, :, start:stop].float().reshape(groups, -1, width)
        z = self._logits[: b * h * rows * stop].view(groups, -1, stop)
        # alpha scales after the product, so bfloat16 operands stay exact; beta = 0 ignores z.
        torch.baddbmm(z, q, self._keys[:, :, :stop], beta=0, alpha=self._sharp, out=z)
        z = z.view(b * h, rows, stop)
        z[:, :, start:].masked_fill_(future[:rows, :rows], float("-inf"))
        m = self._softmax[: z.numel()].view_as(z)
        return torch.softmax(z, dim=-1, out=m)
