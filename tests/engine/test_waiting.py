"""A GPU is fast while the host runs ahead of it: what a pruned prefill and a batch of frames wait
for; and sums that come out the same in every run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.engine.prefill import run
from tokenreduce.engine.state import State, start
from tokenreduce.engine.types import Prompt, Prune
from tokenreduce.methods import METHODS
from tokenreduce.models.builtin import builtin
from tokenreduce.models.vision import pixel_values
from tokenreduce.tokens import Affinity, Tokens, add_rows, marked

LAYERS, TEXT, VISUAL = 28, 5, 120
NEVER = ["aim-prune", "fastv", "pyramid-drop", "uniform"]
READS = ("_local_scalar_dense", "nonzero", "equal", "unique_consecutive", "masked_select")


class Reads(TorchDispatchMode):
    """Counts what a GPU is waited for: values or counts that go to the host, numbers that come from
    there."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        checked = name == "index_put_" and args[3:] == (True,)
        asked = args[1] if name in ("index", "index_put_") else ()
        masks = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in asked)
        brings = name == "lift_fresh" and args[0].numel() > 0
        brings |= (
            name == "_to_copy" and (kwargs or {}).get("device", args[0].device) != args[0].device
        )
        self.count += name in READS or masks or brings or checked
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def deep(paired: Callable[..., Any]) -> Callable[[str, str], tuple[State, int]]:
    """deep(method, device): a tiny model of 28 layers after a prefill, and how often it waited."""
    models = {
        device: paired("qwen2", num_hidden_layers=LAYERS).hosted for device in ("cpu", "meta")
    }

    def prefill(name: str, device: str) -> tuple[State, int]:
        model = models[device].to(device)
        dice = torch.Generator().manual_seed(3)
        embeds = torch.randn(1, TEXT + VISUAL + TEXT, 32, generator=dice).to(device)
        visual = torch.arange(TEXT, TEXT + VISUAL)  # on the CPU: start reads the last of them
        tokens = Tokens.fresh(embeds[:, TEXT : TEXT + VISUAL])
        state = start(Prompt(embeds, visual, tokens, Layout(2, 6, 10)))
        method = METHODS[name]()
        assert method.usual is not None
        cache = DynamicCache(config=model.config)
        counting: Any = Reads  # torch does not annotate its modes
        with counting() as reads:
            left = run(model.model, state, cache, [Prune(method, method.usual)])
        return left, reads.count

    return prefill


def pruned_layers(state: State) -> int:
    counts = [*state.per_layer, state.visual.shape[0]]
    return sum(a > b for a, b in pairwise(counts))


@pytest.mark.parametrize("name", NEVER)
def test_a_pruned_prefill_reads_nothing_back(
    name: str, deep: Callable[[str, str], tuple[State, int]]
) -> None:
    """Tensors on meta have no data: whoever asks for a value, or for how many there are, fails."""
    left, waited = deep(name, "meta")
    assert pruned_layers(left) >= 1
    assert waited == 0


@pytest.mark.parametrize(
    ("name", "most"), [("ask-prune", 1), ("framefusion", 2), ("sparsevlm", 3), ("ficoco-l", 5)]
)
def test_what_depends_on_the_data_is_asked_for_seldom(
    name: str, most: int, deep: Callable[[str, str], tuple[State, int]]
) -> None:
    """Besides the check of what a method returned, of 2 reads, which is made on a CPU alone."""
    left, waited = deep(name, "cpu")
    assert 0 < waited <= (most + 2) * pruned_layers(left)


@pytest.mark.parametrize("shape", [(9,), (3, 9)])
def test_marked_is_where_nonzero_would_find_it(shape: tuple[int, ...]) -> None:
    order = torch.rand(shape, generator=torch.Generator().manual_seed(1)).argsort(dim=-1)
    mask = torch.zeros(shape, dtype=torch.bool).scatter(-1, order[..., :4], True)
    expected = mask.nonzero()[:, -1].view(*shape[:-1], 4)
    assert torch.equal(marked(mask, 4), expected)
    assert marked(mask, 0).shape == (*shape[:-1], 0)


def test_add_rows_adds_in_the_order_of_the_rows() -> None:
    dice = torch.Generator().manual_seed(2)
    index = torch.randint(0, 3, (200,), generator=dice)
    rows = torch.randn(200, 4, generator=dice)
    expected = torch.ones(3, 4)
    for at, row in zip(index.tolist(), rows, strict=True):
        expected[at] += row
    assert torch.equal(add_rows(torch.ones(3, 4), index, rows), expected)
    # What is done off the CPU, where it adds in the same order.
    impl = torch.ops.aten._index_put_impl_
    assert torch.equal(impl(torch.ones(3, 4), (index,), rows, True, True), expected)


def test_add_rows_reads_no_index_back() -> None:
    """index_put_ that accumulates asks a GPU for the least and the highest first."""
    total, index, rows = (
        part.to("meta") for part in (torch.ones(3, 4), torch.tensor([1, 1]), torch.ones(2, 4))
    )
    counting: Any = Reads
    with counting() as reads:
        total.index_put_((index,), rows, accumulate=True)
    assert reads.count == 1
    with counting() as reads:
        assert add_rows(total, index, rows) is total
    assert reads.count == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_batch_of_frames_brings_no_table_after_the_first(device: str) -> None:
    spec = builtin("llava-video-7b")
    assert spec is not None
    side = spec.vision.image_size
    frames = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device)
    pixel_values(frames, spec)
    counting: Any = Reads
    with counting() as reads:
        assert pixel_values(frames, spec).device.type == device
    assert reads.count == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_sums_are_the_same_in_every_run() -> None:
    dice = torch.Generator().manual_seed(2)
    index = torch.randint(0, 50, (4_000,), generator=dice).cuda()
    rows = torch.randn(4_000, 256, generator=dice).cuda()
    affinity = Affinity(index.view(1, -1, 1), rows[:, 0].view(1, -1, 1).abs())
    sums = [add_rows(torch.zeros(50, 256, device="cuda"), index, rows) for _ in range(20)]
    assert all(torch.equal(again, sums[0]) for again in sums)
    total, into = affinity.total(50), affinity.into(rows.unsqueeze(0), 50)
    for _ in range(20):
        assert torch.equal(affinity.total(50), total)
        assert torch.equal(affinity.into(rows.unsqueeze(0), 50), into)
