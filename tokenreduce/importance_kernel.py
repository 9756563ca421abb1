"""The importance of tokens in two Triton kernels, for prompts on a CUDA device.

The same walk as the plain form in `importance`: row blocks from the last to the first. First
`_statistics` finds the maximum and the sum of every row. Then one `_step` for each block: its
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

from functools import cache, partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenreduce.tokens import Attention
from tokenreduce.trial import Outcome, outcome, told

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
        _statistics[b * h, triton.cdiv(length, tile)](
            q, k, peak, inverse, *shape, SPAN=min(tile, 64), **sizes
        )
        last = (length - 1) // tile * tile
        for start in range(last, -1, -tile):
            tiles = 1 if start == last else start // tile + 1  # no rows are below the last block
            _step[b * h, tiles](q, k, reach, peak, inverse, start, float(damping), *shape, **parts)
    return reach


def compiled(tile: int) -> dict[str, int]:
    """Options of the compiler. Loads of two tiles under way at once take the fewest registers; 128
    of these let two programs of 8 warps run on a multiprocessor at a time, and without a limit the
    compiler takes 141 for a capability of 9.0."""
    if tile > 64:
        return {"num_warps": 8, "num_stages": 2, "maxnreg": 128}
    return {"num_warps": 4, "num_stages": 2}


def proven(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> bool:
    """Whether the kernels and the plain form agree over 300 positions that were drawn: tried once
    for each device in a process. A compiler for a card that no one has tried them on may be wrong
    in silence, and wrong tokens would stay.

    Raises RuntimeError where Triton cannot compile or launch, after the first time without trying.
    """
    return told(tried(device, dtype, heads, kv_heads, width))


@cache
def tried(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int
) -> Outcome:
    """`proven`, once for each device in a process."""
    return outcome(partial(_agree, device, dtype, heads, kv_heads, width))


def _agree(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> bool:
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


@triton.jit
def _arriving(
    sent: tl.tensor,
    z: tl.tensor,
    rows: tl.tensor,
    reach: tl.tensor,
    peak: tl.tensor,
    inverse: tl.tensor,
    length: int,
    sharp: float,
    steps: tl.tensor,
    ITERATIONS: tl.constexpr,
) -> tl.tensor:
    """sent (columns, STEPS) and what `rows` add to it, of every p_t; z are logits with columns down
    and rows across, so that sums over rows stay within a few threads."""
    there = rows < length
    high = tl.load(peak + rows, mask=there, other=0.0)
    share = tl.load(inverse + rows, mask=there, other=0.0)
    m = tl.exp2((z - high[None, :]) * sharp)
    for t in tl.static_range(ITERATIONS):
        p = share * tl.load(reach + t * length + rows, mask=there, other=0.0)
        sent += tl.where(steps == t, tl.sum(m * p[None, :], 1)[:, None], 0.0)
    return sent


@triton.jit(do_not_specialize=["start", "length"])
def _step(
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
    STEPS: tl.constexpr,
    SPAN: tl.constexpr,
    PART: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """Rows of the block after the one at `start` are final: adds what they send to one tile of the
    columns before them. The first program of a head has the block at `start` itself, all of whose
    columns have got with that what comes from below, and makes its reach[1:] final: a part at a
    time, the last first, as each part needs what the later ones send."""
    head = tl.program_id(0).to(tl.int64)
    q += head // heads * q_batch + head % heads * q_head
    k += head // heads * k_batch + head % heads // group * k_head
    reach += head * (ITERATIONS + 1) * length
    peak += head * length
    inverse += head * length
    steps = tl.arange(0, STEPS)[None, :]
    end = start + 2 * TILE
    if tl.program_id(1) > 0:
        # These columns stand before `start`, so none is past the end.
        columns = start - tl.program_id(1) * TILE + tl.arange(0, TILE)
        keys = _rows(k, columns, length, k_row, WIDTH)
        sent = tl.zeros((TILE, STEPS), tl.float32)
        for below in range(start + TILE, end, SPAN):
            rows = below + tl.arange(0, SPAN)
            z = _logits(keys, _rows(q, rows, length, q_row, WIDTH), WIDEN)
            sent = _arriving(sent, z, rows, reach, peak, inverse, length, sharp, steps, ITERATIONS)
        at = reach + (steps + 1) * length + columns[:, None]
        real = (columns[:, None] < start) & (steps < ITERATIONS)
        tl.store(at, tl.load(at, mask=real, other=0.0) + sent, mask=real)
    else:
        for after in range(0, TILE, PART):
            part = start + TILE - PART - after
            columns = part + tl.arange(0, PART)
            here = columns < length
            keys = _rows(k, columns, length, k_row, WIDTH)
            sent = tl.zeros((PART, STEPS), tl.float32)
            for below in range(part + PART, end, SPAN):
                rows = below + tl.arange(0, SPAN)
                z = _logits(keys, _rows(q, rows, length, q_row, WIDTH), WIDEN)
                sent = _arriving(
                    sent, z, rows, reach, peak, inverse, length, sharp, steps, ITERATIONS
                )
            z = _logits(keys, _rows(q, columns, length, q_row, WIDTH), WIDEN)
            high = tl.load(peak + columns, mask=here, other=0.0)
            share = tl.load(inverse + columns, mask=here, other=0.0)
            own = columns[:, None] <= columns[None, :]
            m = tl.where(own, tl.exp2((z - high[None, :]) * sharp), 0.0)
            p = tl.load(reach + columns, mask=here, other=0.0)
            for t in range(ITERATIONS):
                at = reach + (t + 1) * length + columns
                p = tl.load(at, mask=here, other=0.0) + tl.sum(m * (share * p)[None, :], 1)
                p += tl.sum(tl.where(steps == t, sent, 0.0), 1)
                p = p * (1 - damping) + damping / length
                tl.store(at, p, mask=here)
            tl.debug_barrier()  # all threads see what the next part is to read
