"""A cache of slots by itself: what it takes over, where it writes, what it lets be seen."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from tokenreduce.engine.slots import SlotCache

HEADS, WIDTH = 2, 8


def drawn(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, HEADS, count, WIDTH, generator=generator)


def ragged(kept: Sequence[int]) -> DynamicCache:
    """A cache with another length in each layer, as a pruned prefill leaves it."""
    cache = DynamicCache()
    for layer, count in enumerate(kept):
        cache.update(drawn(count, 2 * layer), drawn(count, 2 * layer + 1), layer)
    return cache


def parts(cache: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def written(cache: SlotCache, token: int) -> list[Tensor]:
    """One token more in each layer, and what a query of it gets out of each."""
    cache.open()
    out = []
    for layer in range(len(cache.layers)):
        new = drawn(1, 1000 * (token + 1) + layer)
        keys, values = cache.update(new, -new, layer)
        out.append(F.scaled_dot_product_attention(3 * new, keys, values, cache.mask(layer)))
    cache.close()
    return out


def wanted(kept: Sequence[int], tokens: int) -> list[list[Tensor]]:
    """The same of a cache that is joined to at its end, without slots or masks."""
    cache, found = ragged(kept), []
    for token in range(tokens):
        out = []
        for layer in range(len(kept)):
            new = drawn(1, 1000 * (token + 1) + layer)
            keys, values = cache.update(new, -new, layer)
            out.append(F.scaled_dot_product_attention(3 * new, keys, values))
        found.append(out)
    return found


@given(
    kept=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    free=st.integers(1, 9),
    tokens=st.integers(1, 12),
)
@settings(max_examples=40)
def test_attention_is_that_of_a_growing_cache(kept: list[int], free: int, tokens: int) -> None:
    cache = SlotCache.of(ragged(kept), free)
    for token, step in enumerate(wanted(kept, tokens)):
        assert cache.get_seq_length() == kept[0] + token
        if cache.full:
            cache.grow()
        torch.testing.assert_close(written(cache, token), step, rtol=0, atol=1e-5)
    assert cache.written == tokens


def test_the_prompt_stands_behind_the_slots_bit_for_bit() -> None:
    kept, before = (40, 40, 7), parts(ragged((40, 40, 7)))
    cache = SlotCache.of(ragged(kept), 5)
    for (keys, values), (old_keys, old_values), count in zip(
        parts(cache), before, kept, strict=True
    ):
        assert torch.equal(keys[:, :, 5 : 5 + count], old_keys)
        assert torch.equal(values[:, :, 5 : 5 + count], old_values)
    # Each layer is as long as what is in it, to the next 16: not as the longest.
    assert [keys.shape[2] for keys, _ in parts(cache)] == [48, 48, 16]
    assert cache.nbytes == 4 * (2 * HEADS * WIDTH * (48 + 48 + 16) + 2 * 48)


def test_nothing_but_contents_changes_while_slots_last() -> None:
    cache = SlotCache.of(ragged((9, 4)), 6)
    held = [*(part for both in parts(cache) for part in both), cache.slot, cache.mask(0)]
    places = [part.data_ptr() for part in held]
    for token in range(6):
        written(cache, token)
    now = [*(part for both in parts(cache) for part in both), cache.slot, cache.mask(0)]
    assert [part.data_ptr() for part in now] == places
    assert cache.full
    with pytest.raises(ValueError, match="all 6 slots are written"):
        cache.open()


def test_what_memory_held_before_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A masked key has no weight, but 0 x nan is nan."""
    real = Tensor.new_empty

    def dirty(self: Tensor, *size: int) -> Tensor:
        return real(self, *size).fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", dirty)
    cache = SlotCache.of(ragged((9, 4)), 6)
    assert all(bool(out.isfinite().all()) for out in written(cache, 0))


class Alive(TorchDispatchMode):
    """The most of some tensors that were alive at once, whenever anything was computed."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watched = [weakref.ref(tensor) for tensor in tensors]
        self.counts: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.new_empty.default:
            self.counts.append(sum(ref() is not None for ref in self.watched))
        return func(*args, **(kwargs or {}))


def test_no_more_than_one_layer_is_held_twice() -> None:
    """While a layer's two new tensors are made, its old ones and those to come are there."""
    dynamic = ragged((9, 9, 4, 4))
    with Alive([part for both in parts(dynamic) for part in both]) as alive:
        cache = SlotCache.of(dynamic, 3)
    assert alive.counts == [8, 8, 6, 6, 4, 4, 2, 2]
    assert all(part is None for both in parts(dynamic) for part in both)
    assert dynamic.get_seq_length() == 0
    with Alive([part for both in parts(cache) for part in both]) as alive:
        cache.grow()
    assert alive.counts == [8, 8, 6, 6, 4, 4, 2, 2]


def test_memory_goes_with_the_last_that_holds_it() -> None:
    """No cycle: a card has no room for what waits to be collected."""
    gc.disable()
    try:
        cache = SlotCache.of(ragged((9, 4)), 3)
        held = weakref.ref(parts(cache)[0][0])
        del cache
        assert held() is None
    finally:
        gc.enable()


def test_what_others_hold_is_left_to_them() -> None:
    dynamic = ragged((9, 4))
    stem = parts(dynamic)[0][0]
    before = stem.clone()
    cache = SlotCache.of(dynamic, 3)
    for token in range(3):
        written(cache, token)
    assert torch.equal(stem, before)
