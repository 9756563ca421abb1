"""The importance of tokens in three Triton kernels, for long prompts on a CUDA device.

The same walk as the plain form in `importance`: row blocks from the last to the first. First
`_statistics` finds the maximum and the sum of every row; then, for each block, `_settle` steps
through its diagonal, after which all p_t of its rows are final, and `_send` adds what they send to
all earlier columns. Every tile of columns belongs to one program, so nothing is added atomically;
launches on one stream keep the order. No logit is ever written to memory.

Why not one launch for each p_t? With p_t known for all rows, p_(t+1) is a sum over columns without
any order; but that computes the logits 6 times (for the sums of rows and for each of 5 steps), the
walk twice, at the price of 2 launches for each 128 rows (192 at 12,288 tokens, 392 at 25,000) that
the device can hide behind the work of the one before. Estimates, none of them measured, for 28
heads of 128 in bfloat16 and all l (l + 1) / 2 pairs of a head:

    l        logits once  exp2 once  plain buffer's traffic  walk: H200, 4090  6 times: H200, 4090
    12,288   0.54 TFLOP    2.1 G      38 GB                   7 ms, 14 ms       15 ms, 36 ms
    25,000   2.24 TFLOP    8.8 G     158 GB                  27 ms, 54 ms       62 ms, 150 ms

A 4090 is bound by the product (165 TFLOP/s), an H200 by exponentials and by reading tiles from
its L2 cache. Built for compute capability 8.0 to 12.0, heads of 128 spill no register and take some
64 KiB of shared memory; 7.5 has no tensor cores in Triton and spills.

Needs triton when it is imported; knows nothing about when it pays.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenreduce.tokens import Attention

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
    reach[:, 0] = 1 / length
    peak, inverse = torch.empty(2, b * h, length, device=q.device)
    sharp = attention.scale / temperature * _LOG2_E
    shape = (h, h // k.shape[1], length, sharp, *q.stride()[:3], *k.stride()[:3])
    # The interpreter holds bfloat16 as integers and would multiply those.
    widen = q.device.type == "cpu" and q.dtype == torch.bfloat16
    sizes = {"TILE": tile, "WIDTH": width, "WIDEN": widen, "num_warps": 8 if tile > 64 else 4}
    steps = {"ITERATIONS": iterations, "STEPS": triton.next_power_of_2(iterations)}
    with torch.cuda.device_of(q):  # Triton launches on the current device; nothing on a CPU
        _statistics[b * h, triton.cdiv(length, tile)](
            q, k, peak, inverse, *shape, SPAN=min(tile, 64), num_stages=2, **sizes
        )
        for start in reversed(range(0, length, tile)):
            given = (q, k, reach, peak, inverse, start)
            _settle[(b * h,)](*given, float(damping), *shape, ITERATIONS=iterations, **sizes)
            if start:
                _send[b * h, start // tile](*given, *shape, SPAN=min(tile, 32), **steps, **sizes)
    return reach


@cache
def proven(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> bool:
    """Whether the kernels and the plain form agree over 300 positions that were drawn: once for
    each device in a process. A compiler for a card that no one has tried them on may be wrong in
    silence, and wrong tokens would stay."""
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


@triton.jit
def _rows(
    base: tl.tensor, at: tl.tensor, length: int, stride: int, WIDTH: tl.constexpr
) -> tl.tensor:
    """(rows, WIDTH) at `at`; zeros from `length` on."""
    where = base + at.to(tl.int64)[:, None] * stride + tl.arange(0, WIDTH)[None, :]
    return tl.load(where, mask=at[:, None] < length, other=0.0)


@triton.jit
def _logits(left: tl.tensor, right: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """float32 (left rows, right rows): products of half precision are exact, sums float32."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, tl.trans(right), input_precision="ieee")


@triton.jit
def _fold(
    high: tl.tensor, total: tl.tensor, z: tl.tensor, sharp: float
) -> tuple[tl.tensor, tl.tensor]:
    """Maximum of rows and sum of 2 ** (sharp * (z - maximum)), with one more tile of columns."""
    higher = tl.maximum(high, tl.max(z, 1))
    new = tl.sum(tl.exp2((z - higher[:, None]) * sharp), 1)
    return higher, total * tl.exp2((high - higher) * sharp) + new


@triton.jit(do_not_specialize=["length"])
def _statistics(
    q: tl.tensor,
    k: tl.tensor,
    peak: tl.tensor,
    inverse: tl.tensor,
    heads: int,
    group: int,
    length: int,
    sharp: float,
    q_batch: int,
    q_head: int,
    q_row: int,
    k_batch: int,
    k_head: int,
    k_row: int,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """peak, inverse float32 (b * h, l): each row's largest logit, not yet scaled, and 1 / sum of
    2 ** (sharp * (logit - peak))."""
    head = tl.program_id(0).to(tl.int64)
    start = (tl.num_programs(1) - 1 - tl.program_id(1)) * TILE  # the longest rows first
    q += head // heads * q_batch + head % heads * q_head
    k += head // heads * k_batch + head % heads // group * k_head
    rows = start + tl.arange(0, TILE)
    queries = _rows(q, rows, length, q_row, WIDTH)
    high = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    for left in range(0, start, SPAN):
        keys = _rows(k, left + tl.arange(0, SPAN), length, k_row, WIDTH)
        high, total = _fold(high, total, _logits(queries, keys, WIDEN), sharp)
    for left in range(start, start + TILE, SPAN):
        columns = left + tl.arange(0, SPAN)
        z = _logits(queries, _rows(k, columns, length, k_row, WIDTH), WIDEN)
        z = tl.where(columns[None, :] <= rows[:, None], z, float("-inf"))
        high, total = _fold(high, total, z, sharp)
    tl.store(peak + head * length + rows, high, mask=rows < length)
    tl.store(inverse + head * length + rows, 1 / total, mask=rows < length)


@triton.jit(do_not_specialize=["start", "length"])
def _settle(
    q: tl.tensor,
    k: tl.tensor,
    reach: tl.tensor,
    peak: tl.tensor,
    inverse: tl.tensor,
    start: int,
    damping: float,
    heads: int,
    group: int,
    length: int,
    sharp: float,
    q_batch: int,
    q_head: int,
    q_row: int,
    k_batch: int,
    k_head: int,
    k_row: int,
    ITERATIONS: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """Makes reach[1:] of the block at `start` final: all rows below it have sent theirs, so what
    is left is what its own rows send to each other, one p_t after the other."""
    head = tl.program_id(0).to(tl.int64)
    q += head // heads * q_batch + head % heads * q_head
    k += head // heads * k_batch + head % heads // group * k_head
    reach += head * (ITERATIONS + 1) * length
    at = start + tl.arange(0, TILE)
    here = at < length
    # Columns down, rows across: sums over rows then stay within a few threads.
    z = _logits(_rows(k, at, length, k_row, WIDTH), _rows(q, at, length, q_row, WIDTH), WIDEN)
    high = tl.load(peak + head * length + at, mask=here, other=0.0)
    share = tl.load(inverse + head * length + at, mask=here, other=0.0)
    m = tl.where(at[:, None] <= at[None, :], tl.exp2((z - high[None, :]) * sharp), 0.0)
    p = tl.load(reach + at, mask=here, other=0.0)
    for _ in range(ITERATIONS):
        reach += length
        p = tl.load(reach + at, mask=here, other=0.0) + tl.sum(m * (share * p)[None, :], 1)
        p = p * (1 - damping) + damping / length
        tl.store(reach + at, p, mask=here)


@triton.jit(do_not_specialize=["start", "length"])
def _send(
    q: tl.tensor,
    k: tl.tensor,
    reach: tl.tensor,
    peak: tl.tensor,
    inverse: tl.tensor,
    start: int,
    heads: int,
    group: int,
    length: int,
    sharp: float,
    q_batch: int,
    q_head: int,
    q_row: int,
    k_batch: int,
    k_head: int,
    k_row: int,
    ITERATIONS: tl.constexpr,
    STEPS: tl.constexpr,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """Adds to reach[t + 1] of one tile of columns before `start` what the block of rows there,
    where reach[t] is final, sends to it."""
    head = tl.program_id(0).to(tl.int64)
    q += head // heads * q_batch + head % heads * q_head
    k += head // heads * k_batch + head % heads // group * k_head
    reach += head * (ITERATIONS + 1) * length
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    keys = _rows(k, columns, length, k_row, WIDTH)
    steps = tl.arange(0, STEPS)[None, :]
    sent = tl.zeros((TILE, STEPS), tl.float32)
    for above in range(0, TILE, SPAN):
        rows = start + above + tl.arange(0, SPAN)
        there = rows < length
        z = _logits(keys, _rows(q, rows, length, q_row, WIDTH), WIDEN)
        high = tl.load(peak + head * length + rows, mask=there, other=0.0)
        share = tl.load(inverse + head * length + rows, mask=there, other=0.0)
        m = tl.exp2((z - high[None, :]) * sharp)
        for t in tl.static_range(ITERATIONS):
            p = share * tl.load(reach + t * length + rows, mask=there, other=0.0)
            sent += tl.where(steps == t, tl.sum(m * p[None, :], 1)[:, None], 0.0)
    # Every column stands before `start`, so none is past the end.
    at = reach + (steps + 1) * length + columns[:, None]
    real = (columns[:, None] < start) & (steps < ITERATIONS)
    tl.store(at, tl.load(at, mask=real, other=0.0) + sent, mask=real)
