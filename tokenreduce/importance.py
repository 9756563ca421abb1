"""AIM's importance of tokens: a few steps of PageRank on sharpened attention, exact and blockwise.

Zhong et al., arXiv 2412.03248, section 3.3; the temperature, the number of steps and the root mean
square over heads are those of the official code (LaVi-Lab/AIM, get_importance). Knows nothing
about methods, models or which tokens are visual.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from tokenreduce.tokens import Attention

# Tokens in the layer that is scored. An estimate until it is measured: by launches the kernels win
# at any length, with one for each 128 rows where the plain form has a dozen; by bytes as well. But
# compiling them takes seconds, and under this the plain form costs a layer less than 1 ms.
KERNEL_FROM = 512
_HALVES = (torch.bfloat16, torch.float16)


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

    Half precision of KERNEL_FROM tokens or more on an NVIDIA GPU goes through `importance_fused`
    where triton is installed, its kernels have been seen to be right on this device and block_bytes
    is not given; all else, and what fails there with a RuntimeWarning, through `importance_plain`.
    The two differ by rounding alone.

    Raises ValueError unless the attention is causal, temperature > 0, iterations >= 1 and damping
    is in [0, 1].
    """
    _check(attention, temperature, iterations, damping)
    if block_bytes is None and _long_on_gpu(attention):
        try:
            _prove(attention)
            return importance_fused(
                attention, temperature=temperature, iterations=iterations, damping=damping
            )
        except torch.OutOfMemoryError:
            raise  # the plain form needs more
        except Exception as error:  # no C compiler, too old a GPU: Triton raises all sorts
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            warnings.warn(
                f"importance is scored without its kernel, slower: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
    return importance_plain(
        attention,
        temperature=temperature,
        iterations=iterations,
        damping=damping,
        block_bytes=block_bytes,
    )


def importance_fused(
    attention: Attention,
    *,
    temperature: float = 0.1,
    iterations: int = 5,
    damping: float = 0.0,
) -> Tensor:
    """`importance` by the Triton kernels, whatever the length.

    Raises ValueError as `importance` does and for an attention that the kernels do not fit,
    ImportError without triton, and what Triton raises where it cannot compile or launch.
    """
    _check(attention, temperature, iterations, damping)
    from tokenreduce.importance_kernel import reach_fused

    reach = reach_fused(attention, temperature=temperature, iterations=iterations, damping=damping)
    return _over_heads(reach, attention)


def importance_plain(
    attention: Attention,
    *,
    temperature: float = 0.1,
    iterations: int = 5,
    damping: float = 0.0,
    block_bytes: int | None = None,
) -> Tensor:
    """`importance` by torch alone, on any device, whatever the length.

    M is lower triangular, so a column of p_(t+1) needs only rows at or below the diagonal: walking
    row blocks from the last to the first, every p_t of a block is final once the diagonal block
    has been stepped through. Each logit is computed once and no l x l tensor exists: at most two
    buffers of block_bytes (default 4 MiB on a CPU, so that they stay in its cache, else 64 MiB)
    or of 16 rows x heads x l, whichever is larger.

    Raises ValueError as `importance` does.
    """
    _check(attention, temperature, iterations, damping)
    b, h, length, _ = attention.q.shape
    step = attention.rows_within(block_bytes)
    future = torch.ones(step, step, dtype=torch.bool, device=attention.q.device).triu(1)
    weights = _Weights(attention, temperature, step)
    # reach[:, t] is p_t where the walk has been, and before it the sum of p_(t-1) M over the rows
    # seen.
    reach = torch.zeros(b * h, iterations + 1, length, device=attention.q.device)
    reach[:, 0].fill_(1 / length)
    for stop in range(length, 0, -step):
        start = max(0, stop - step)
        m = weights.rows(start, stop, future)
        here = reach[:, :, start:stop]
        diagonal = m[:, :, start:].contiguous()
        for t in range(iterations):
            arrived = here[:, t + 1 : t + 2]
            torch.baddbmm(arrived, here[:, t : t + 1], diagonal, out=arrived)
            if damping:
                arrived.mul_(1 - damping).add_(damping / length)
        if start:
            earlier = reach[:, 1:, :start]
            torch.baddbmm(earlier, here[:, :-1], m[:, :, :start], out=earlier)
    return _over_heads(reach, attention)


def ranked(score: Tensor) -> Tensor:
    """Indices int64 (b, n) by falling score[-1], ties by score[-2], ..., at last the lower index.

    score: (iterations, b, n), as `importance` returns it for the tokens to be ranked.
    """
    order = torch.arange(score.shape[2], device=score.device).expand(score.shape[1:])
    for key in score:  # the least significant first: every sort is stable
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    return order


def _long_on_gpu(attention: Attention) -> bool:
    if attention.length < KERNEL_FROM or not _halves_on_gpu(attention):
        return False
    try:
        from tokenreduce.importance_kernel import fits
    except ImportError:
        return False
    return fits(attention)


def _prove(attention: Attention) -> None:
    """Raises RuntimeError where the kernels are wrong on this device."""
    from tokenreduce.importance_kernel import proven

    q, k = attention.q, attention.k
    if not proven(q.device, q.dtype, q.shape[1], k.shape[1], q.shape[-1]):
        raise RuntimeError(f"its kernels give wrong numbers on {q.device}")


def _halves_on_gpu(attention: Attention) -> bool:
    """Half precision on an NVIDIA GPU of 2020 or later: before, Triton has no tensor cores and no
    product of bfloat16 exists."""
    q, k = attention.q, attention.k
    if q.device.type != "cuda" or q.dtype not in _HALVES or k.dtype != q.dtype:
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _check(attention: Attention, temperature: float, iterations: int, damping: float) -> None:
    if not attention.causal:
        raise ValueError("importance walks backwards through causal attention; this one is not")
    if temperature <= 0 or iterations < 1 or not 0 <= damping <= 1:
        raise ValueError(f"{temperature = }, {iterations = }, {damping = }")


def _over_heads(reach: Tensor, attention: Attention) -> Tensor:
    """(iterations, b, l), the root mean square, of p_0 .. (b * h, iterations + 1, l)."""
    b, h, length, _ = attention.q.shape
    per_head = reach.view(b, h, -1, length)[:, :, 1:]
    return per_head.square().mean(dim=1).sqrt().transpose(0, 1).contiguous()


class _Weights:
    """Softmax of sharpened logits, a block of rows at a time, in two buffers used over and over.

    Rows of one group of query heads stand together in the product, so keys are never repeated.
    """

    def __init__(self, attention: Attention, temperature: float, step: int) -> None:
        b, h, length, width = attention.q.shape
        # float32 logits: dividing by the temperature magnifies what a half precision would round
        # away. Operands are widened only where halves cannot be multiplied into float32 sums: torch
        # has had that since 2.8.
        known = "dtype_out" in torch.ops.aten.baddbmm.overloads()
        self._halves = known and _halves_on_gpu(attention)
        self._q, k = attention.q, attention.k if self._halves else attention.k.float()
        self._keys = k.reshape(-1, length, width).transpose(1, 2)
        self._sharp = attention.scale / temperature
        self._logits = k.new_empty(b * h * step * length, dtype=torch.float32)
        self._softmax = torch.empty_like(self._logits)

    def rows(self, start: int, stop: int, future: Tensor) -> Tensor:
        """float32 (b * h, stop - start, stop), until the next call."""
        b, h, _, width = self._q.shape
        rows, groups = stop - start, self._keys.shape[0]
        q = self._q[:, :, start:stop].reshape(groups, -1, width)
        z = self._logits[: b * h * rows * stop].view(groups, -1, stop)
        # alpha scales after the product, so bfloat16 operands stay exact; beta = 0 ignores z.
        keys, sharp = self._keys[:, :, :stop], self._sharp
        if self._halves:
            torch.baddbmm(z, q, keys, torch.float32, beta=0, alpha=sharp, out=z)
        else:
            torch.baddbmm(z, q.float(), keys, beta=0, alpha=sharp, out=z)
        z = z.view(b * h, rows, stop)
        z[:, :, start:].masked_fill_(future[:rows, :rows], float("-inf"))
        m = self._softmax[: z.numel()].view_as(z)
        return torch.softmax(z, dim=-1, out=m)
