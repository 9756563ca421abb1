"""Layers on several devices, and in memory from which they are fetched: the prefill in which tokens
leave goes after them. Other devices are pretended; offloading is accelerate's own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.engine.generate import generate
from tokenreduce.engine.host import prepare, read_prompt
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.types import Generation, Plan, Prefilled, Prompt, Prune, Sampling
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.fastv import FastV
from tokenreduce.methods.framefusion import FrameFusion
from tokenreduce.methods.sparsevlm import SparseVLM
from tokenreduce.schedule import Once, Ramp
from tokenreduce.tokens import Tokens

CPU = torch.device("cpu")
DEPTH = 6
CACHE = "past_key_values"

PRUNES: list[Sequence[Prune]] = [
    (),
    (Prune(AimPrune(), Ramp(Fraction(1, 6), Fraction(5, 6))),),
    (Prune(FastV(), Once(Fraction(1, 3), Fraction(1, 2))),),
    (Prune(FrameFusion(), Once(Fraction(1, 2), Fraction(1, 3))),),
    # Reads what entered layer 0, which is on the first device.
    (Prune(SparseVLM(), Ramp(Fraction(1, 6), Fraction(5, 6))),),
]
NAMES = ["none", "aim", "fastv", "framefusion", "sparsevlm"]


@pytest.fixture(autouse=True)
def _quietly() -> Iterator[None]:
    """Without accelerate's warning that layers are offloaded, which loading keeps away."""
    log = logging.getLogger("accelerate.big_modeling")
    level = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(level)


@pytest.fixture(scope="module")
def plain(paired: Callable[..., Any]) -> Any:
    """Six layers of 32."""
    return paired("qwen2").hosted


def asking(question: int = 0) -> Prompt:
    """5 + 48 visual + 7 positions; those of one video begin alike."""

    def drawn(seed: int, count: int) -> Tensor:
        return torch.randn(1, count, 32, generator=torch.Generator().manual_seed(seed))

    visual = drawn(1, 4).repeat_interleave(12, dim=1) + 0.3 * drawn(2, 48)
    embeds = torch.cat([drawn(3, 5), visual, drawn(10 + question, 7)], dim=1)
    at = torch.arange(5, 53)
    return Prompt(embeds, at, Tokens.fresh(visual).bare(), Layout(4, 3, 3, "grid"))


def answered(model: Any, prunes: Sequence[Prune]) -> list[Generation]:
    """Two questions about one video, the second read on from the first."""
    found: list[Generation] = []
    stem: Stem | None = Stem()
    for question in range(2):
        made = generate(
            model,
            str,
            asking(question),
            prunes,
            Sampling(6),
            (),
            lambda _: None,
            lambda _: None,
            stem=stem,
        )
        stem = made.stem
        found.append(made)
    return found


def offloaded(model: Any, how: str, folder: Path) -> Any:
    """Copies whose layers, or some of them, are not where the rest is."""
    copied = copy.deepcopy(model)
    prepare(copied)
    if how == "cpu":
        return cpu_offload(copied, execution_device=CPU)
    if how == "disk":
        return disk_offload(copied, str(folder), execution_device=CPU)
    places = {f"model.layers.{i}": "disk" if i in (2, 3) else "cpu" for i in range(DEPTH)}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    dispatched: Any = dispatch_model(
        copied,
        {**places, **rest},
        main_device="cpu",
        offload_dir=str(folder),
        force_hooks=True,
        skip_keys="past_key_values",
    )
    return dispatched


@pytest.mark.parametrize("how", ["cpu", "disk", "some"])
@pytest.mark.parametrize("prunes", PRUNES, ids=NAMES)
def test_offloaded_layers_give_the_same_tokens(
    plain: Any, how: str, prunes: Sequence[Prune], tmp_path: Path
) -> None:
    model = offloaded(plain, how, tmp_path)
    # Weights that are fetched for each use are nowhere between.
    assert model.model.layers[2].mlp.up_proj.weight.device.type == "meta"
    wanted, found = answered(plain, prunes), answered(model, prunes)
    for a, b in zip(wanted, found, strict=True):
        assert (a.text, a.per_layer, a.reused) == (b.text, b.per_layer, b.reused)
    assert found[1].reused.positions > 0  # the second was read on from the first


class Elsewhere(Tensor):
    """Of the CPU, and says that it is on another device. What mixes devices is refused, as CUDA
    would; "meta" with a number is one that torch leaves alone."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor, device: torch.device | str) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(device),
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # as torch calls it
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = dict(kwargs or {})
        moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        where = None if moves else _one_device(func, (args, options))
        if options.get("device") is not None:
            where, options["device"] = options["device"], CPU
        elif moves:
            where = args[0].device
        out = func(*tree_map(_inner, args), **tree_map(_inner, options))
        return args[0] if func is torch.ops.aten.copy_.default else _outer(out, where)


def _inner(one: Any) -> Any:
    return one.here if isinstance(one, Elsewhere) else one


def _outer(out: Any, where: torch.device | str | None) -> Any:
    if where is None or torch.device(where).type == "cpu":
        return out
    return tree_map(lambda one: Elsewhere(one, where) if isinstance(one, Tensor) else one, out)


def _one_device(func: Any, given: Any) -> torch.device | None:
    """The device of all tensors of `given`, numbers apart. Raises RuntimeError if there are two."""
    found = {one.device for one in tree_leaves(given) if isinstance(one, Tensor) and one.dim()}
    if len(found) > 1:
        raise RuntimeError(f"{func} with tensors on {' and '.join(sorted(map(str, found)))}")
    return next(iter(found), None)


class Pretending(TorchFunctionMode):
    """Tensors that are made there are made so, and SDPA is not taken apart before it is seen."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = dict(kwargs or {})
        device = options.get("device")
        given = [one for one in tree_leaves((args, options)) if isinstance(one, Tensor)]
        if device is not None and not given and torch.device(device).type == "meta":
            return _outer(func(*args, **{**options, "device": CPU}), device)
        if func is Tensor.__setitem__:  # torch would make a number a tensor without data
            _one_device(func, args)
            return func(*tree_map(_inner, args))
        if func is Tensor.new_tensor:
            return _outer(torch.tensor(*args[1:], **options), args[0].device)
        if func is F.scaled_dot_product_attention:
            where = _one_device(func, (args, options))
            return _outer(func(*tree_map(_inner, args), **tree_map(_inner, options)), where)
        return func(*args, **options)


def elsewhere(model: Any, devices: Sequence[str]) -> Any:
    """A copy with each layer on a device of its own, the rest on the first; what enters a layer is
    sent there as accelerate's hook sends it."""
    copied = copy.deepcopy(model)
    prepare(copied)

    def send(module: nn.Module, to: str) -> None:
        for part in module.modules():
            for name, weight in [*part._parameters.items(), *part._buffers.items()]:
                if weight is not None:
                    there = Elsewhere(weight.detach(), to)
                    kept = name in part._parameters
                    setattr(part, name, nn.Parameter(there, requires_grad=False) if kept else there)

        def follow(_: nn.Module, args: Any, options: Any) -> Any:
            return send_to_device(args, to), send_to_device(options, to, skip_keys=CACHE)

        module.register_forward_pre_hook(follow, with_kwargs=True)

    for layer, device in zip(copied.model.layers, devices, strict=True):
        send(layer, device)
    for rest in (copied.model.norm, copied.model.rotary_emb, copied.lm_head):
        send(rest, devices[0])
    return copied


def read(model: Any, prunes: Sequence[Prune], device: str | None = None) -> list[Prefilled]:
    """Two questions about one video; the second from what the first left."""
    found: list[Prefilled] = []
    stem: Stem | None = Stem()
    for question in range(2):
        prompt = asking(question)
        if device is not None:
            tokens = prompt.tokens
            prompt = replace(
                prompt,
                embeds=Elsewhere(prompt.embeds, device),
                visual=Elsewhere(prompt.visual, device),
                tokens=Tokens(
                    *(Elsewhere(part, device) for part in (tokens.x, tokens.size, tokens.place))
                ),
            )
        plan = Plan(prompt, tuple(prunes), 0, lambda _: None, stem)
        found.append(read_prompt(model, plan, DynamicCache()))
        stem = found[-1].stem
    return found


@pytest.mark.parametrize("prunes", PRUNES, ids=NAMES)
@pytest.mark.parametrize("layers", ["001122", "011111", "010101"])
def test_the_prefill_follows_its_layers(plain: Any, prunes: Sequence[Prune], layers: str) -> None:
    """Every boundary is met by a layer after which tokens leave, and by one that reads on."""
    devices = [f"meta:{number}" for number in layers]
    wanted = read(plain, prunes)
    with Pretending():
        found = read(elsewhere(plain, devices), prunes, devices[0])
        for a, b in zip(wanted, found, strict=True):
            assert str(b.logits.device) == devices[0]
            assert torch.equal(a.logits, _inner(b.logits))
            assert (a.per_layer, a.reused) == (b.per_layer, b.reused)
            held: Any = b.cache.layers
            assert [str(one.keys.device) for one in held] == devices
    assert found[1].reused.positions > 0


def test_two_devices_are_really_two() -> None:
    one, other = Elsewhere(torch.ones(2, 2), "meta:0"), Elsewhere(torch.ones(2, 2), "meta:1")
    with pytest.raises(RuntimeError, match="on meta:0 and meta:1"):
        one @ other
    assert torch.equal(_inner(one.to("meta:1") @ other), torch.full((2, 2), 2.0))


def test_hooks_are_needed(plain: Any) -> None:
    """Without what sends hidden states on, the pretended devices would be noticed."""
    model = elsewhere(plain, [f"meta:{number}" for number in "001122"])
    model.model.layers[2]._forward_pre_hooks.clear()
    with Pretending(), pytest.raises(RuntimeError, match="on meta:0 and meta:1"):
        read(model, (), "meta:0")
