"""What each Triton program of importance does: the statistics of rows, and one step of the walk.

See `importance_kernel`, which launches them, for the walk itself. Needs triton when it is imported;
knows neither shapes of tensors nor how many programs there are.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def statistics(
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
def step(
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
