"""Importance: equal to the official code, to a dense float64 form, and never l x l in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tokenreduce import importance as module
from tokenreduce.importance import importance, importance_plain, ranked
from tokenreduce.tokens import Attention

GOLDEN = Path(__file__).parent.parent / "golden" / "aim_importance"
CASES: dict[str, Any] = json.loads((GOLDEN / "importance.json").read_text())


def dense(attention: Attention, temperature: float, iterations: int, damping: float) -> Tensor:
    """The definition, all at once in float64: (iterations, b, l)."""
    q, k = attention.q.double(), attention.k.double()
    k = k.repeat_interleave(attention.heads // k.shape[1], dim=1)
    length = attention.length
    z = q @ k.transpose(-1, -2) * attention.scale
    z = z.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    m = (z / temperature).softmax(-1)
    p = torch.full((*z.shape[:2], 1, length), 1 / length, dtype=torch.float64)
    steps = []
    for _ in range(iterations):
        p = (1 - damping) * (p @ m) + damping / length
        steps.append(p.squeeze(2).square().mean(1).sqrt())
    return torch.stack(steps)


@pytest.mark.parametrize("block_bytes", [1, 20_000, None])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_official_code(case: str, block_bytes: int | None) -> None:
    data = load_file(GOLDEN / "importance.safetensors")
    logits = data[f"{case}/logits_f16"].float()
    if (keep := data.get(f"{case}/keep_mask")) is not None:
        hidden = (keep == 0)[:, None, None, :]
        logits = logits.masked_fill(hidden, torch.finfo(torch.float32).min)
    # Keys that are unit vectors make the product of queries and keys these very logits.
    k = torch.eye(logits.shape[-1]).expand_as(logits)
    given_, official = CASES[case]["kwargs"], data[f"{case}/importance"]
    score = importance(
        Attention(logits, k, 1.0, causal=True),
        temperature=given_.get("tau_imp", 0.1),
        iterations=given_.get("iters", 5),
        damping=given_.get("d", 0.0),
        block_bytes=block_bytes,
    )
    torch.testing.assert_close(score[-1], official, rtol=2e-5, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 70),
    groups=st.integers(1, 3),
    key_heads=st.integers(1, 2),
    rows=st.integers(1, 2),
    sharpness=st.floats(0.05, 3),
    damping=st.sampled_from([0.0, 0.15, 1.0]),
    iterations=st.integers(1, 6),
    seed=st.integers(0, 10_000),
)
def test_equals_the_dense_definition(
    length: int,
    groups: int,
    key_heads: int,
    rows: int,
    sharpness: float,
    damping: float,
    iterations: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, groups * key_heads, length, 8, generator=generator)
    k = torch.randn(rows, key_heads, length, 8, generator=generator)
    attention = Attention(q * sharpness, k, 8**-0.5, causal=True)
    score = importance(attention, iterations=iterations, damping=damping, block_bytes=1)
    expected = dense(attention, 0.1, iterations, damping)
    torch.testing.assert_close(score, expected.float(), rtol=2e-4, atol=1e-6)


def test_half_precision_operands_lose_nothing() -> None:
    q, k = torch.randn(1, 4, 90, 16).bfloat16(), torch.randn(1, 2, 90, 16).bfloat16()
    half = importance(Attention(q, k, 0.25, causal=True))
    full = importance(Attention(q.float(), k.float(), 0.25, causal=True))
    torch.testing.assert_close(half, full, rtol=0, atol=0)


@pytest.fixture
def widened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.dtype]]:
    """Products of half precision with float32 sums on the CPU, which has them on a GPU alone: the
    dtype of the operands of each."""
    seen: list[torch.dtype] = []

    def multiply(
        z: Tensor,
        q: Tensor,
        k: Tensor,
        dtype: torch.dtype,
        *,
        beta: float,
        alpha: float,
        out: Tensor,
    ) -> Tensor:
        assert (beta, dtype, k.dtype) == (0, torch.float32, q.dtype)
        assert z is out
        seen.append(q.dtype)
        return torch.baddbmm(z, q.float(), k.float(), beta=beta, alpha=alpha, out=out)

    monkeypatch.setattr(module, "_halves_on_gpu", lambda _: True)
    library = torch.library.Library("aten", "IMPL")
    library.impl("baddbmm.dtype_out", multiply, "CPU")
    yield seen
    library._destroy()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_multiplied_as_they_are(dtype: torch.dtype, widened: list[torch.dtype]) -> None:
    q, k = torch.randn(2, 4, 90, 16).to(dtype), torch.randn(2, 2, 90, 16).to(dtype)
    half = importance(Attention(q, k, 0.25, causal=True), block_bytes=1)
    assert widened == [dtype] * 6  # blocks of 16 rows
    expected = dense(Attention(q, k, 0.25, causal=True), 0.1, 5, 0.0)
    torch.testing.assert_close(half, expected.float(), rtol=2e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 333, 4_000])
def test_on_a_gpu_halves_lose_nothing(length: int, dtype: torch.dtype) -> None:
    q = torch.randn(1, 28, length, 128, device="cuda").to(dtype)
    k = torch.randn(1, 4, length, 128, device="cuda").to(dtype)
    half = importance_plain(Attention(q, k, 128**-0.5, causal=True))
    full = importance_plain(Attention(q.float(), k.float(), 128**-0.5, causal=True))
    torch.testing.assert_close(half, full, rtol=5e-4, atol=1e-9)


def test_what_cannot_be_scored_is_refused() -> None:
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="causal"):
        importance(Attention(q, q, 1.0, causal=False))
    for wrong in ({"temperature": 0.0}, {"iterations": 0}, {"damping": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            importance(Attention(q, q, 1.0, causal=True), **wrong)


def test_ties_fall_to_the_earlier_iterate_then_to_the_lower_index() -> None:
    score = torch.tensor([[[1.0, 2.0, 2.0, 0.0, 9.0]], [[0.0, 5.0, 5.0, 0.0, 5.0]]])
    # The last iterate says {1, 2, 4} before {0, 3}; the first puts 4 before 1 and 2, 0 before 3.
    assert ranked(score).tolist() == [[4, 1, 2, 0, 3]]
    assert ranked(torch.zeros(5, 2, 4)).tolist() == [[0, 1, 2, 3]] * 2


def test_scores_that_underflow_are_told_apart() -> None:
    """A sharp pattern leaves many exact zeros in the last iterate, not so many in all."""
    generator = torch.Generator().manual_seed(5)
    q, k = (torch.randn(1, 2, 200, 16, generator=generator) for _ in "qk")
    score = importance(Attention(q * 3, k, 1.0, causal=True))
    last, every = score[-1, 0], score[:, 0]
    assert int((last == 0).sum()) > 10
    order = ranked(score)[0]
    kept = every[:, order].flip(0).T.tolist()  # the last iterate first
    assert kept == sorted(kept, reverse=True)
    assert len({tuple(row) for row in kept}) > len(set(last.tolist()))


def footprint(attention: Attention, largest: Any) -> tuple[int, int]:
    """Elements of the largest tensor while scoring, and the highest sum of bytes that torch's
    allocator had given out and not taken back."""
    with (
        largest,
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording,
    ):
        importance(attention)
    assert recording.profiler is not None
    events: Any = recording.profiler.kineto_results
    moves = [event for event in events.events() if event.name() == "[memory]"]
    held = peak = 0
    for move in sorted(moves, key=lambda event: event.start_ns()):
        held += move.nbytes()
        peak = max(peak, held)
    return largest.numel, peak


def test_memory_grows_with_the_length_not_with_its_square(largest_tensor: Any) -> None:
    heads, peaks = 2, []
    for length in (2048, 4096, 8192):
        q, k = torch.randn(1, heads, length, 16), torch.randn(1, 1, length, 16)
        attention = Attention(q, k, 0.25, causal=True)
        numel, peak = footprint(attention, largest_tensor())
        assert 0 < numel <= (4 << 20) // 4  # one buffer of the default size
        assert numel < length * length  # of one head
        assert peak > 2 * 4 * numel  # bytes: both buffers were counted
        peaks.append(peak)
    assert peaks[2] < 2 * peaks[1] < 4 * peaks[0]
    assert peaks[2] < 16 << 20


def test_a_block_never_falls_below_sixteen_rows(largest_tensor: Any) -> None:
    """A buffer of 16 rows is the smallest, so that long prompts stay fast."""
    length = 300
    attention = Attention(torch.randn(1, 4, length, 8), torch.randn(1, 2, length, 8), 1.0, True)
    with largest_tensor() as largest:
        importance(attention, block_bytes=1)
    assert largest.numel == 4 * 16 * length
