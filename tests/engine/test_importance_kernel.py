"""The Triton kernels of importance: equal to the plain form in Triton's interpreter, compilable for
real GPUs without one, and never in the way where they cannot run."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tokenreduce import importance as module
from tokenreduce.importance import (
    KERNEL_FROM,
    importance,
    importance_fused,
    importance_plain,
    ranked,
)
from tokenreduce.tokens import Attention

needs_triton = pytest.mark.skipif(
    sys.platform != "linux", reason="triton has wheels for Linux alone; CI runs this there"
)
Fused = Callable[..., Tensor]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process in which Triton interprets its kernels: it decides so once,
    when it is imported, and here others may have imported it already."""
    with (
        pytest.MonkeyPatch.context() as environment,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        environment.setenv("TRITON_INTERPRET", "1")
        pool.submit(torch.set_num_threads, 1).result()  # the process starts here
        environment.undo()
        yield lambda function, *given, **options: pool.submit(function, *given, **options).result()


@pytest.fixture
def fused(elsewhere: Callable[..., Any]) -> Fused:
    """The kernels on the CPU, with tiles of a size to choose: float32 (iterations, b, l)."""

    def score(attention: Attention, *, tile: int | None = None, **options: Any) -> Tensor:
        from tokenreduce.importance_kernel import reach_fused

        given = {"temperature": 0.1, "iterations": 5, "damping": 0.0} | options
        reach: Tensor = elsewhere(reach_fused, attention, tile=tile, **given)
        b, h, length, _ = attention.q.shape
        assert reach.shape == (b * h, given["iterations"] + 1, length)
        per_head = reach.view(b, h, -1, length)[:, :, 1:]
        return per_head.square().mean(1).sqrt().transpose(0, 1)

    return score


def attention_of(
    b: int, heads: int, key_heads: int, length: int, width: int, dtype: torch.dtype, seed: int = 0
) -> Attention:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(b, heads, length, width, generator=generator).to(dtype)
    k = torch.randn(b, key_heads, length, width, generator=generator).to(dtype)
    return Attention(q, k, width**-0.5, causal=True)


@needs_triton
@pytest.mark.parametrize(
    ("b", "heads", "key_heads", "length", "width", "dtype", "tile", "options"),
    [
        (1, 1, 1, 1, 16, torch.float32, 16, {}),
        (2, 2, 1, 16, 32, torch.float32, 16, {}),
        (2, 4, 2, 33, 16, torch.float32, 16, {"damping": 0.15}),
        (1, 7, 1, 47, 64, torch.bfloat16, 16, {"temperature": 0.3}),
        (1, 4, 1, 70, 128, torch.bfloat16, 32, {"iterations": 3}),
        (1, 2, 2, 70, 64, torch.float16, 32, {"damping": 1.0}),
        (1, 2, 1, 200, 16, torch.float32, 64, {"temperature": 0.02}),
        (1, 2, 1, 129, 128, torch.bfloat16, None, {}),
        (1, 2, 1, 300, 16, torch.float16, 128, {"damping": 0.15}),
        (1, 1, 1, 70, 256, torch.float32, None, {"iterations": 1}),
    ],
)
def test_the_kernels_equal_the_plain_form(
    b: int,
    heads: int,
    key_heads: int,
    length: int,
    width: int,
    dtype: torch.dtype,
    tile: int | None,
    options: dict[str, Any],
    fused: Fused,
) -> None:
    attention = attention_of(b, heads, key_heads, length, width, dtype)
    score = fused(attention, tile=tile, **options)
    plain = importance_plain(attention, **options)
    torch.testing.assert_close(score, plain, rtol=2e-4, atol=1e-9)


@needs_triton
@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_the_order_of_tokens_is_the_same(sharpness: float, fused: Fused) -> None:
    attention = attention_of(1, 2, 1, 150, 16, torch.float32, seed=5)
    attention = Attention(attention.q * sharpness, attention.k, attention.scale, causal=True)
    score, plain = fused(attention, tile=32), importance_plain(attention)
    if sharpness > 1:  # the earlier iterates are needed to tell these apart
        assert int((plain[-1] == 0).sum()) > 10
    assert torch.equal(score == 0, plain == 0)
    assert torch.equal(ranked(score), ranked(plain))


@needs_triton
def test_queries_and_keys_are_read_where_they_lie(fused: Fused) -> None:
    """(b, l, h, d) seen as (b, h, l, d), as attention layers hand them over, and a transpose."""
    dense = attention_of(2, 4, 2, 40, 16, torch.float32)
    q = dense.q.transpose(1, 2).contiguous().transpose(1, 2)
    k = dense.k.transpose(2, 3).contiguous().transpose(2, 3)
    assert not q.is_contiguous()
    assert k.stride(-1) != 1
    strided = fused(Attention(q, k, dense.scale, causal=True), tile=16)
    assert torch.equal(strided, fused(dense, tile=16))


@needs_triton
def test_the_fused_form_scores_as_the_plain_one(elsewhere: Callable[..., Any]) -> None:
    attention = attention_of(2, 2, 1, 40, 16, torch.bfloat16)
    score = elsewhere(importance_fused, attention, iterations=2, damping=0.15)
    plain = importance_plain(attention, iterations=2, damping=0.15)
    torch.testing.assert_close(score, plain, rtol=2e-4, atol=1e-9)


def spilled(cubin: bytes) -> int:
    """Bytes of local memory that a program's threads take each: registers that did not suffice."""
    tools = Path(pytest.importorskip("triton").__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.check_output([tools / "cuobjdump", "-res-usage", file.name], text=True)
    found = re.search(r"STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1])


@needs_triton
@pytest.mark.parametrize("capability", [89, 90, 120])
def test_the_kernels_compile_for_a_gpu(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler refuses what the interpreter takes. No GPU is needed up to the machine code."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tokenreduce import importance_kernel as kernels
    from tokenreduce import importance_programs as programs

    pointers = {"q": "*bf16", "k": "*bf16"}
    pointers |= dict.fromkeys(("reach", "peak", "inverse"), "*fp32")
    every = {"TILE": 128, "WIDTH": 128, "WIDEN": False}
    for kernel, own in (
        (programs.statistics, {"SPAN": 64}),
        (programs.step, {"ITERATIONS": 5, "STEPS": 8, "SPAN": 32, "PART": 64}),
    ):
        sizes = every | own
        types = pointers | dict.fromkeys(("sharp", "damping"), "fp32")
        types |= dict.fromkeys(sizes, "constexpr")
        names = kernel.arg_names
        aligned = [n for n in names if n in pointers or n.startswith(("q_", "k_"))]
        source = ASTSource(
            fn=kernel,
            signature={name: types.get(name, "i32") for name in names},
            constexprs={(names.index(name),): value for name, value in sizes.items()},
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
        target = GPUTarget("cuda", capability, 32)
        built = triton.compile(source, target=target, options=kernels.compiled(128))
        assert len(built.asm["cubin"]) > 1000
        assert "mma" in built.asm["ptx"]  # on tensor cores, that is
        # Two programs at a time: of a consumer card's 100 KiB, or of 228, with 1 KiB each besides.
        assert built.metadata.shared <= (113 if capability == 90 else 49) << 10
        assert ".maxnreg 128" in built.asm["ptx"]
        assert "local" not in built.asm["ptx"]
        assert spilled(built.asm["cubin"]) == 0


def test_what_fits_the_kernels() -> None:
    kernels = pytest.importorskip("tokenreduce.importance_kernel", exc_type=ImportError)
    good = attention_of(1, 2, 1, 4, 64, torch.bfloat16)
    q, k = good.q, good.k
    assert kernels.fits(good)
    for wrong in (
        Attention(q, k, 1.0, causal=False),
        Attention(q, k, -1.0, causal=True),
        Attention(q, k.float(), 1.0, causal=True),
        Attention(q.double(), k.double(), 1.0, causal=True),
        Attention(q[..., :48], k[..., :48], 1.0, causal=True),
        Attention(q[..., :8], k[..., :8], 1.0, causal=True),
    ):
        assert not kernels.fits(wrong)
        with pytest.raises(ValueError, match="fits"):
            kernels.reach_fused(wrong, temperature=0.1, iterations=5, damping=0.0)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two forms ran, in order; neither does anything."""
    calls: list[str] = []
    monkeypatch.setattr(module, "importance_fused", lambda *_, **__: calls.append("fused"))
    monkeypatch.setattr(module, "importance_plain", lambda *_, **__: calls.append("plain"))
    monkeypatch.setattr(module, "_prove", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    return calls


def pretended(device: str, length: int, dtype: torch.dtype, width: int = 128) -> Attention:
    """Tensors without data, of a device that need not be there."""
    with FakeTensorMode():
        q = torch.empty(1, 28, length, width, dtype=dtype, device=device)
        k = torch.empty(1, 4, length, width, dtype=dtype, device=device)
    return Attention(q, k, 0.1, causal=True)


@needs_triton
def test_only_long_prompts_of_half_precision_on_cuda_take_the_kernels(
    called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = torch.bfloat16
    for attention, options in (
        (pretended("cuda", KERNEL_FROM - 1, half), {}),
        (pretended("cpu", KERNEL_FROM, half), {}),
        (pretended("cuda", KERNEL_FROM, torch.float32), {}),
        (pretended("cuda", KERNEL_FROM, half, width=96), {}),
        (pretended("cuda", KERNEL_FROM, half), {"block_bytes": 1 << 20}),
    ):
        importance(attention, **options)
    assert called == ["plain"] * 5
    importance(pretended("cuda", KERNEL_FROM, half))
    importance(pretended("cuda", KERNEL_FROM, torch.float16))
    assert called[5:] == ["fused"] * 2
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    importance(pretended("cuda", KERNEL_FROM, torch.float16))
    assert called[7:] == ["plain"]


def test_without_triton_the_plain_form_runs(
    called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenreduce.importance_kernel", None)
    monkeypatch.delattr("tokenreduce.importance_kernel", raising=False)
    importance(pretended("cuda", KERNEL_FROM, torch.bfloat16))
    assert called == ["plain"]


@needs_triton
def test_kernels_that_fail_are_replaced_with_a_warning(
    called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify CC")

    monkeypatch.setattr(module, "importance_fused", fail)
    with pytest.warns(RuntimeWarning, match="slower: RuntimeError: Failed to find C compiler. Pl"):
        importance(pretended("cuda", KERNEL_FROM, torch.bfloat16))
    assert called == ["plain"]


@needs_triton
@pytest.mark.parametrize("wrong", [0.0, 0.01])
def test_kernels_are_proven_against_the_plain_form_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    kernels = pytest.importorskip("tokenreduce.importance_kernel", exc_type=ImportError)
    drawn = attention_of(1, 4, 2, 8, 32, torch.bfloat16)
    plain = module.importance_plain
    monkeypatch.setattr(module, "importance_fused", lambda given: plain(given) * (1 + wrong))
    kernels.proven.forget()
    if wrong:
        with pytest.raises(RuntimeError, match="wrong numbers on cpu"):
            module._prove(drawn)
    else:
        module._prove(drawn)
    kernels.proven.forget()


@needs_triton
def test_what_does_not_compile_is_tried_once(
    called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every scored layer of every prompt would compile in vain, for seconds each."""
    kernels = pytest.importorskip("tokenreduce.importance_kernel", exc_type=ImportError)
    sizes, tries = (torch.device("cpu"), torch.bfloat16, 4, 2, 32), list[Exception]()

    def fail(*_: object, **__: object) -> Tensor:
        tries.append(torch.OutOfMemoryError("later") if not tries else ValueError("no\n compiler"))
        raise tries[-1]

    monkeypatch.setattr(module, "importance_fused", fail)
    kernels.proven.forget()
    with pytest.raises(torch.OutOfMemoryError):
        kernels.proven(*sizes)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"^ValueError: no compiler$"):
            kernels.proven(*sizes)
    assert len(tries) == 2
    kernels.proven.forget()


@needs_triton
def test_memory_that_runs_out_is_not_the_kernels_failure(
    called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(module, "importance_fused", fail)
    with pytest.raises(torch.OutOfMemoryError):
        importance(pretended("cuda", KERNEL_FROM, torch.bfloat16))
    assert called == []


def test_wrong_settings_are_refused_before_any_kernel(called: list[str]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        importance(pretended("cuda", KERNEL_FROM, torch.bfloat16), temperature=0.0)
    assert called == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("length", [1, 130, 4_000, 12_345])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_the_kernels_equal_the_plain_form(length: int, dtype: torch.dtype) -> None:
    cpu = attention_of(1, 28, 4, length, 128, dtype)
    attention = Attention(cpu.q.cuda(), cpu.k.cuda(), cpu.scale, causal=True)
    score, plain = importance_fused(attention), importance_plain(attention)
    torch.testing.assert_close(score, plain, rtol=5e-4, atol=1e-9)
    assert importance(attention).shape == score.shape
