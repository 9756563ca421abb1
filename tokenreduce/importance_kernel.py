"""The importance of tokens in two Triton kernels, for prompts on a CUDA device.

The same walk as the plain form in `importance`: row blocks from the last to the first. First
`statistics` finds the maximum and the sum of every row. Then one `step` for each block: its
programs add what the block after it, whose p_t are final, sends to all columns before that; one
program of each head thereby has all that arrives at the block itself, and makes its p_t final.
Every tile of columns belongs to one program, so nothing is added atomically; launches on one stream
keep the order. No logit is ever written to memory.

That is one launch for each 128 rows and one more: 29 at 3,460 tokens, 97 at 12,288. They are
all queued without waiting for the device. Why not one launch for each p_t? With p_t known for
all rows, p_(t+1) is a sum over columns without any order, and 6 launches do; but that computes the
logits 6 times (for the sums of rows and for each of 5 steps), the walk twice. Estimates, none of
them measured, for 28 heads of 128 in bfloat16 and all l (l + 1) / 2 pairs of a head, 10 us for each
step of the walk besides its work:

    l        logits once  exp2 once  plain buffer's traffic  walk: H200, 4090  6 times: H200, 4090
     3,460   0.04 TFLOP    0.2 G       3 GB                 0.8 ms, 1.4 ms      1.2 ms, 2.9 ms
    12,288   0.54 TFLOP    2.1 G      38 GB                   8 ms, 15 ms       15 ms, 36 ms
    25,000   2.24 TFLOP    8.8 G     158 GB                  29 ms, 56 ms       62 ms, 150 ms

A 4090 is bound by the product (165 TFLOP/s), an H200 by exponentials and by reading tiles from
its L2 cache. Built for compute capability 8.0 to 12.0, heads of 128 spill no register, and two
programs fit a multiprocessor by registers (at most 128) and shared memory (at most 64 KiB, 49 KiB
on consumer cards); 7.5 has no tensor cores in Triton and spills.

Needs triton when it is imported; knows nothing about when it pays.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from tokenreduce.importance_programs import statistics, step
from tokenreduce.tokens import Attention
from tokenreduce.trial import tried_once

WIDTHS = (16, 32, 64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_LOG2_E = 1.4426950408889634


def fits(attention: Attention) -> bool:
    """Whether the kernels can score this attention: causal, scale above 0, queries and keys of one
    dtype among float16, bfloat16 and float32, heads 16, 32, 64, 128 or 256 wide."""
    q, k = attention.q, attention.k
    known = q.dtype == k.dtype and q.dtype in DTYPES and q.shape[-1] in WIDTHS
    return attention.causal and attention.scale > 0 and known


def reach_fused(
    attention: Attention,
    *,
    temperature: float,
    iterations: int,
    damping: float,
    tile: int | None = None,
) -> Tensor:
    """float32 (b * h, iterations + 1, l): p_0 .. p_iterations of every head.

    tile: rows of a block and columns of a tile, a power of two from 16; by default what fits the
    shared memory of consumer cards.

    Half precision loses nothing: its products are exact in the float32 sums, and these are scaled
    only after the maximum of their row was taken off. What differs from the plain form is the
    rounding of sums: some 1e-7 of the largest sharpened logit, as a share of each p_t (the tests
    allow 2e-4, as the plain form's do against float64). float32 operands are multiplied as such,
    which spills registers and is slow on a GPU: it is there for tests.

    Raises ValueError unless `fits`; what Triton raises where it cannot compile or launch.
    """
    if not fits(attention):
        raise ValueError("no kernel for this attention; see fits")
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (attention.q, attention.k))
    b, h, length, width = q.shape
    tile = tile or _tile(q)
    reach = torch.zeros(b * h, iterations + 1, length, device=q.device)
    reach[:, 0].fill_(1 / length)
    peak, inverse = torch.empty(2, b * h, length, device=q.device)
    sharp = attention.scale / temperature * _LOG2_E
    shape = (h, h // k.shape[1], length, sharp, *q.stride()[:3], *k.stride()[:3])
    # The interpreter holds bfloat16 as integers and would multiply those.
    widen = q.device.type == "cpu" and q.dtype == torch.bfloat16
    sizes = {"TILE": tile, "WIDTH": width, "WIDEN": widen, **compiled(tile)}
    steps = {"ITERATIONS": iterations, "STEPS": triton.next_power_of_2(iterations)}
    parts = {"PART": min(tile, 64), "SPAN": min(tile, 32)} | steps | sizes
    with torch.cuda.device_of(q):  # Triton launches on the current device; nothing on a CPU
        statistics[b * h, triton.cdiv(length, tile)](
            q, k, peak, inverse, *shape, SPAN=min(tile, 64), **sizes
        )
        last = (length - 1) // tile * tile
        for start in range(last, -1, -tile):
            tiles = 1 if start == last else start // tile + 1  # no rows are below the last block
            step[b * h, tiles](q, k, reach, peak, inverse, start, float(damping), *shape, **parts)
    return reach


def compiled(tile: int) -> dict[str, int]:
    """Options of the compiler. Loads of two tiles under way at once take the fewest registers; 128
    of these let two programs of 8 warps run on a multiprocessor at a time, and without a limit the
    compiler takes 141 for a capability of 9.0."""
    if tile > 64:
        return {"num_warps": 8, "num_stages": 2, "maxnreg": 128}
    return {"num_warps": 4, "num_stages": 2}


@tried_once
def proven(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> bool:
    """Whether the kernels and the plain form agree over 300 positions that were drawn. A compiler
    for a card that no one has tried them on may be wrong in silence, and wrong tokens would stay.

    Raises RuntimeError where Triton cannot compile or launch.
    """
    from tokenreduce.importance import importance_fused, importance_plain

    dice = torch.Generator(device).manual_seed(0)
    q, k = (
        torch.randn(1, count, 300, width, dtype=dtype, device=device, generator=dice)
        for count in (heads, kv_heads)
    )
    drawn = Attention(q, k, width**-0.5, causal=True)
    return torch.allclose(importance_fused(drawn), importance_plain(drawn), rtol=2e-3, atol=1e-20)


def _tile(q: Tensor) -> int:
    """128 rows of at most 256 bytes: so no kernel takes more than 96 KiB of shared memory."""
    return max(32, min(128, 128 * 256 // (q.shape[-1] * q.element_size())))
