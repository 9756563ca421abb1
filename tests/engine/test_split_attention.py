"""Attention over chunks of keys, by Triton's interpreter, against SDPA in float32."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from tokenreduce.engine.attention import Attend
from tokenreduce.engine.stepper import LONG, Stepper
from tokenreduce.engine.types import Plan, Prompt

split_attention = pytest.importorskip(
    "tokenreduce.engine.split_attention", exc_type=ImportError
)  # triton has wheels for Linux alone
MakePrompt = Callable[..., Prompt]
NEAR = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SHAPES = {  # heads, heads of keys, d_head, keys, from which on they are seen
    "several chunks": (4, 2, 16, 304, 7),
    "a chunk that is not seen": (14, 2, 64, 400, 129),
    "all chunks but the last": (6, 1, 64, 272, 271),
    "less than a chunk": (4, 4, 32, 16, 3),
    "as the 7B": (28, 4, 128, 160, 0),
}


@pytest.fixture(scope="module")
def attend() -> Iterator[Attend]:
    """The kernels on the CPU, in a process in which Triton interprets them: it decides so once,
    when it is imported, and here others may have imported it already."""
    with (
        pytest.MonkeyPatch.context() as environment,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        environment.setenv("TRITON_INTERPRET", "1")
        pool.submit(torch.set_num_threads, 1).result()  # the process starts here
        environment.undo()

        def away(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
            # Sent as they are they would be moved to memory that processes share.
            q, keys, values, mask = (part.clone() for part in (q, keys, values, mask))
            asked = pool.submit(split_attention.attend, q, keys, values, mask, scale)
            out: Tensor = asked.result()
            return out

        yield away


def drawn(shape: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    heads, of_keys, width, count, seen = SHAPES[shape]
    generator = torch.Generator().manual_seed(3)
    q = 2 * torch.randn(1, heads, 1, width, generator=generator)
    keys, values = torch.randn(2, 1, of_keys, count, width, generator=generator)
    mask = torch.zeros(1, 1, 1, count)
    mask[..., :seen] = float("-inf")
    mask[..., count - 1 :] = 0
    return q.to(dtype), keys.to(dtype), values.to(dtype), mask.to(dtype)


def exact(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """(1, 1, h, d_head) float32 of the same rounded inputs."""
    groups = q.shape[1] // keys.shape[1]
    keys, values = (x.float().repeat_interleave(groups, dim=1) for x in (keys, values))
    out = F.scaled_dot_product_attention(q.float(), keys, values, mask.float(), scale=scale)
    return out.transpose(1, 2)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_put_together_are_attention(attend: Attend, shape: str, dtype: torch.dtype) -> None:
    given = drawn(shape, dtype)
    out = attend(*given, 0.3)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), exact(*given, 0.3), rtol=0, atol=NEAR[dtype])


@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_the_kernels_are_proven_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
        assert (
            keys.shape[2] % 16 == 0
        )  # as in a cache of slots: for others Triton has a kernel more
        return exact(q, keys, values, mask, scale).to(q.dtype) + wrong

    monkeypatch.setattr(split_attention, "attend", attend)
    split_attention.proven.forget()
    given = drawn("less than a chunk", torch.bfloat16)
    if wrong:
        with pytest.raises(RuntimeError, match="wrong numbers on cpu"):
            split_attention.attend_proven(*given, 0.3)
    else:
        assert split_attention.attend_proven(*given, 0.3).shape == (1, 1, 4, 32)
    split_attention.proven.forget()


def test_what_does_not_compile_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of every answer would compile in vain. Memory may be there the next time."""
    tries: list[Exception] = []

    def attend(*_: Any) -> Tensor:
        tries.append(torch.OutOfMemoryError("later") if not tries else ValueError("no\n compiler"))
        raise tries[-1]

    monkeypatch.setattr(split_attention, "attend", attend)
    split_attention.proven.forget()
    given = drawn("less than a chunk", torch.bfloat16)
    with pytest.raises(torch.OutOfMemoryError):
        split_attention.attend_proven(*given, 0.3)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"^ValueError: no compiler$"):
            split_attention.attend_proven(*given, 0.3)
    assert len(tries) == 2
    split_attention.proven.forget()


def test_what_has_no_kernel_is_refused() -> None:
    q, keys, values, mask = drawn("less than a chunk", torch.float32)
    assert split_attention.fits(q, keys)
    for wrong in ((q[..., :24], keys[..., :24]), (q.double(), keys.double()), (q.half(), keys)):
        assert not split_attention.fits(*wrong)
    with pytest.raises(ValueError, match="no kernel"):
        split_attention.attend(q[..., :24], keys[..., :24], values[..., :24], mask, 1.0)


@pytest.mark.parametrize("capability", [75, 89, 90])
def test_the_kernels_compile_for_a_gpu(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler refuses what the interpreter takes. No GPU is needed up to the machine code."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiler = importlib.import_module("triton.compiler")
    targets = importlib.import_module("triton.backends.compiler")
    half = dict.fromkeys(("q", "keys", "values", "mask", "out"), "*fp16")
    types = half | dict.fromkeys(("parts", "peaks", "totals"), "*fp32") | {"sharp": "fp32"}
    chunk = {"CHUNK": 128, "TILE": 64, "GROUP": 7, "WIDTH": 128, "WIDEN": False, "ROWS": 16}
    for kernel, sizes in (
        (split_attention._chunk, chunk),
        (split_attention._join, {"SPLITS": 128, "WIDTH": 128, "SOME": 16}),
    ):
        names = kernel.arg_names
        kinds = types | dict.fromkeys(sizes, "constexpr")
        source = compiler.ASTSource(
            fn=kernel,
            signature={name: kinds.get(name, "i32") for name in names},
            constexprs={(names.index(name),): value for name, value in sizes.items()},
        )
        built = compiler.compile(source, target=targets.GPUTarget("cuda", capability, 32))
        assert len(built.asm["cubin"]) > 1000
        assert built.metadata.shared <= 48 << 10  # without asking for more


def steps(model: Any, prompt: Prompt, stepper: Stepper | None) -> Tensor:
    """Logits of three tokens more."""
    plan, found = Plan(prompt, steps=stepper), list[Tensor]()
    cache: Any = DynamicCache(config=model.config)
    out = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=cache)
    for token in range(3):
        given = {"input_ids": torch.tensor([[token]]), "past_key_values": out.past_key_values}
        out = model(plan=plan, **given)
        found.append(out.logits)
    return torch.cat(found)


def test_long_layers_are_attended_to_in_chunks(
    paired: Callable[..., Any], make_prompt: MakePrompt, attend: Attend
) -> None:
    """Short ones by SDPA; the logits are those of stock. Heads are 16 wide, the least."""
    model = paired("qwen2", head_dim=16).hosted
    lengths: list[int] = []

    def noting(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
        lengths.append(keys.shape[2])
        return attend(q, keys, values, mask, scale)

    for length, chunks in ((LONG - 20, 6 * 3), (LONG - 40, 0)):
        prompt = make_prompt(length, range(6, length - 6))
        lengths.clear()
        made = steps(model, prompt, Stepper(slots=16, attend=noting))
        torch.testing.assert_close(made, steps(model, prompt, None), rtol=0, atol=5e-5)
        assert lengths == [LONG] * chunks


def test_a_kernel_that_does_not_compile_is_done_without(
    qwen2: Any, make_prompt: MakePrompt
) -> None:
    def attend(*_: Any) -> Tensor:
        raise RuntimeError("Failed to find C compiler\nset CC")

    prompt = make_prompt(600, range(6, 590))
    stepper = Stepper(slots=16, attend=attend)
    made = steps(qwen2.hosted, prompt, stepper)
    torch.testing.assert_close(made, steps(qwen2.hosted, prompt, None), rtol=0, atol=5e-5)
    reason = "stock attention: RuntimeError: Failed to find C compiler"
    assert stepper.decoding.because == reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_kernels_are_attention(shape: str, dtype: torch.dtype) -> None:
    q, keys, values, mask = (part.cuda() for part in drawn(shape, dtype))
    out = split_attention.attend(q, keys, values, mask, 0.3).float()
    wanted = exact(q, keys, values, mask, 0.3)
    torch.testing.assert_close(out, wanted, rtol=0, atol=NEAR[dtype])
