"""cuDNN's attention is out while a pruned answer is made, on CUDA alone, and then as it was."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import groupby
from typing import Any

import pytest
import torch

from tokenreduce.engine.generate import generate
from tokenreduce.engine.kernels import any_length
from tokenreduce.engine.types import Prompt, Prune, Sampling
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.schedule import Ramp

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
RAMP = (Prune(AimPrune(), Ramp(Fraction(1, 3), Fraction(1))),)


def enabled() -> bool:
    return bool(torch.backends.cuda.cudnn_sdp_enabled())


def broken_off() -> None:
    with any_length(CUDA):
        assert not enabled()
        raise KeyboardInterrupt


@pytest.fixture(params=[True, False], autouse=True)
def before(request: pytest.FixtureRequest) -> Iterator[bool]:
    """What someone else has chosen."""
    was = enabled()
    torch.backends.cuda.enable_cudnn_sdp(request.param)
    yield request.param
    torch.backends.cuda.enable_cudnn_sdp(was)


def test_cudnn_is_out_until_the_last_has_done_and_then_as_it_was(before: bool) -> None:
    """Two that overlap, as of two threads, and one that breaks off."""
    first, second = ExitStack(), ExitStack()
    first.enter_context(any_length(CUDA))
    second.enter_context(any_length(CUDA))
    first.close()
    assert not enabled()
    second.close()
    assert enabled() == before
    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert enabled() == before


def test_elsewhere_nothing_is_touched(before: bool) -> None:
    with any_length(CPU):
        assert enabled() == before


@pytest.mark.parametrize(
    ("prunes", "wanted"), [(RAMP, "off on read off told on"), ((), "read off told on")]
)
def test_an_answer_is_made_with_it_out(
    monkeypatch: pytest.MonkeyPatch,
    qwen2: Any,
    make_prompt: Callable[..., Prompt],
    prunes: tuple[Prune, ...],
    wanted: str,
) -> None:
    """While something is pruned, and from the first token on; a prompt of one length is read with
    whatever torch prefers."""
    order = list[str]()

    @contextmanager
    def noted(device: torch.device) -> Iterator[None]:
        assert device == CPU
        order.append("off")
        yield
        order.append("on")

    for part in ("generate", "host"):
        module = importlib.import_module(f"tokenreduce.engine.{part}")
        monkeypatch.setattr(module, "any_length", noted)
    prompt = make_prompt(40, range(6, 33))
    generate(
        qwen2.hosted, str, prompt, prunes, Sampling(3), (), lambda _: order.append("told"),
        lambda _: order.append("read"),
    )  # fmt: skip
    assert [one for one, _ in groupby(order)] == wanted.split()


@pytest.mark.gpu
def test_a_card_may_use_other_kernels_for_every_length(before: bool) -> None:
    """Those that are left take what a pruned prompt and a step ask for."""
    q = torch.randn(1, 4, 700, 16, dtype=torch.bfloat16, device=CUDA)
    mask = torch.zeros(1, 1, 1, 700, dtype=q.dtype, device=CUDA)
    attention = torch.nn.functional.scaled_dot_product_attention
    with any_length(CUDA):
        whole = attention(q, q, q, is_causal=True)
        step = attention(q[:, :, -1:], q, q, mask)
    torch.testing.assert_close(step, whole[:, :, -1:], rtol=0, atol=2e-2)
