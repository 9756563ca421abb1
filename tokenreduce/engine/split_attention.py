"""Attention of one query over many keys with a mask, spread over the whole card by Triton.

Fused SDPA takes a mask in one kernel alone, which gives each head of keys to one block: a 7B has 4
of them, a card a hundred places for blocks. Here each head's keys are cut into chunks, a program
for each; a second kernel puts their parts together. That it pays is an estimate from these counts,
not measured.

Needs triton when it is imported; knows no cache and not when it pays.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from tokenreduce.trial import tried_once

WIDTHS = (16, 32, 64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CHUNK = 128
"""Keys of one program: 12,288 keys of 4 heads are 384 programs."""
_TILE = 64
_PROOF = 704  # as long as a cache of slots may be: a multiple of 16
_LOG2_E = 1.4426950408889634


def fits(q: Tensor, keys: Tensor) -> bool:
    """Whether there is a kernel for queries (1, h, 1, d_head) and keys (1, h_kv, n, d_head)."""
    group = q.shape[1] // keys.shape[1]
    return q.shape[-1] in WIDTHS and q.dtype in DTYPES and q.dtype == keys.dtype and group <= 64


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """(1, 1, h, d_head) of q's dtype, as SDPA gives it: sums and softmax in float32, weights
    rounded to the values' dtype before their product.

    q     (1, h, 1, d_head)
    keys, values  (1, h_kv, n, d_head), contiguous
    mask  (1, 1, 1, n), added to the logits; at least one entry is not -inf

    Raises ValueError unless `fits`; what Triton raises where it cannot compile or launch.
    """
    if not fits(q, keys):
        raise ValueError("no kernel for this attention; see fits")
    _, heads, length, width = keys.shape
    group, splits = q.shape[1] // heads, triton.cdiv(length, CHUNK)
    parts = torch.empty(q.shape[1], splits, width, dtype=torch.float32, device=q.device)
    peaks, totals = torch.empty(2, q.shape[1], splits, dtype=torch.float32, device=q.device)
    out = torch.empty(1, 1, q.shape[1], width, dtype=q.dtype, device=q.device)
    # The interpreter holds bfloat16 as integers and would multiply those.
    widen = q.device.type == "cpu" and q.dtype == torch.bfloat16
    sizes: dict[str, Any] = {"GROUP": group, "WIDTH": width, "WIDEN": widen}
    sizes["ROWS"] = max(16, triton.next_power_of_2(group))
    with torch.cuda.device_of(q):  # Triton launches on the current device; nothing on a CPU
        _chunk[heads, splits](
            q.contiguous(), keys, values, mask, parts, peaks, totals,
            length, splits, float(scale * _LOG2_E), CHUNK=CHUNK, TILE=_TILE, **sizes,
        )  # fmt: skip
        _join[(q.shape[1],)](
            parts, peaks, totals, out, splits,
            SPLITS=max(64, triton.next_power_of_2(splits)), WIDTH=width, SOME=16,
        )  # fmt: skip
    return out


def attend_proven(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`attend`, once it has been seen on this device, in this process, to give what SDPA gives.

    A compiler for a card that no one has tried it on may be wrong in silence. Raises RuntimeError
    where it does not, or where Triton cannot compile or launch, and what `attend` raises.
    """
    if not proven(q.device, q.dtype, q.shape[1], keys.shape[1], q.shape[-1]):
        raise RuntimeError(f"the kernels of split attention give wrong numbers on {q.device}")
    return attend(q, keys, values, mask, scale)


@tried_once
def proven(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> bool:
    """Whether `attend` and SDPA agree over 704 keys that were drawn, some of them masked.

    Triton compiles another kernel for lengths that 16 divides: all are, of a cache of slots. Raises
    RuntimeError where it cannot compile or launch.
    """
    dice = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device, generator=dice)

    q, keys, values = drawn(1, heads, 1, width), *drawn(2, 1, kv_heads, _PROOF, width)
    mask = torch.zeros(1, 1, 1, _PROOF, dtype=dtype, device=device)
    mask[..., 3:150] = float("-inf")
    got = attend(q, keys, values, mask, width**-0.5).transpose(1, 2)
    groups = heads // kv_heads
    wide_keys, wide_values = (x.float().repeat_interleave(groups, dim=1) for x in (keys, values))
    wanted = F.scaled_dot_product_attention(q.float(), wide_keys, wide_values, mask.float())
    return torch.allclose(got.float(), wanted, rtol=0.02, atol=0.01)


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
def _chunk(  # type: ignore[no-untyped-def]
    q, keys, values, mask, parts, peaks, totals, length, splits, sharp: float,
    CHUNK: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr,
    WIDEN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """All queries of one head of keys over one chunk: maxima, sums and unscaled results."""
    head, split = tl.program_id(0), tl.program_id(1)
    rows, across = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mine = rows < GROUP
    row = head * GROUP + rows
    query = tl.load(q + row[:, None] * WIDTH + across[None, :], mask=mine[:, None], other=0.0)
    base = head.to(tl.int64) * length * WIDTH
    high = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    held = tl.zeros((ROWS, WIDTH), tl.float32)
    for begin in range(split * CHUNK, min(split * CHUNK + CHUNK, length), TILE):
        at = begin + tl.arange(0, TILE)
        there = at < length
        where = base + at[:, None] * WIDTH + across[None, :]
        key = tl.load(keys + where, mask=there[:, None], other=0.0)
        value = tl.load(values + where, mask=there[:, None], other=0.0)
        seen = tl.load(mask + at, mask=there, other=float("-inf")).to(tl.float32)
        if WIDEN:
            query, key, value = query.to(tl.float32), key.to(tl.float32), value.to(tl.float32)
        z = tl.dot(query, tl.trans(key), input_precision="ieee") * sharp + seen[None, :]
        higher = tl.maximum(high, tl.max(z, 1))
        # Where nothing was seen yet all is -inf, and -inf less -inf no number.
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weight, shrink = tl.exp2(z - level[:, None]), tl.exp2(high - level)
        total = total * shrink + tl.sum(weight, 1)
        product = tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        held = held * shrink[:, None] + product
        high = higher
    place = row * splits + split
    tl.store(peaks + place, high, mask=mine)
    tl.store(totals + place, total, mask=mine)
    tl.store(parts + place[:, None] * WIDTH + across[None, :], held, mask=mine[:, None])


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
def _join(  # type: ignore[no-untyped-def]
    parts, peaks, totals, out, splits,
    SPLITS: tl.constexpr, WIDTH: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """One query's result from those of its chunks."""
    row, across = tl.program_id(0), tl.arange(0, WIDTH)
    split = tl.arange(0, SPLITS)
    high = tl.load(peaks + row * splits + split, mask=split < splits, other=float("-inf"))
    total = tl.load(totals + row * splits + split, mask=split < splits, other=0.0)
    level = tl.max(high, 0)
    whole = tl.sum(total * tl.exp2(high - level), 0)
    joined = tl.zeros((WIDTH,), tl.float32)
    for begin in range(0, splits, SOME):
        some = begin + tl.arange(0, SOME)
        there = some < splits
        peak = tl.load(peaks + row * splits + some, mask=there, other=float("-inf"))
        where = (row * splits + some)[:, None] * WIDTH + across[None, :]
        part = tl.load(parts + where, mask=there[:, None], other=0.0)
        joined += tl.sum(part * tl.exp2(peak - level)[:, None], 0)
    tl.store(out + row * WIDTH + across, (joined / whole).to(out.dtype.element_ty))
