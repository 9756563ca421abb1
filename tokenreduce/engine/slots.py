"""Keys and values of a prompt that was read, laid out so that nothing moves while an answer is
decoded: in each layer free slots stand in front, what the prompt left there behind them. Runs no
layer and knows no family of models.

Attention does not ask for an order once RoPE is applied. So one write index serves layers of any
length, and every tensor of a step keeps its place and its size: what a CUDA graph needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

SLOTS = 128
"""Free slots at a time. In layers that hold text only, all of them may be more than the text: few
are wanted. Each time they are full everything is copied once and a graph recorded again, some
tens of milliseconds: few times are wanted. An answer of the usual 256 tokens has one such time."""

_ALIGNED = 16
"""Keys come in multiples of this, else fused attention copies the mask to pad it at each step."""


class SlotLayer(CacheLayerMixin):
    """One layer: `free` slots, then `kept` keys and values, then zeros that no one looks at.

    keys, values  (1, h_kv, aligned(free + kept), d_head)
    index         (1,) int64, the slot written next; one tensor for all layers
    """

    def __init__(self, keys: Tensor, values: Tensor, free: int, index: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.free, self.kept, self.index = free, keys.shape[2], index
        self.keys: Tensor = _fronted(keys, free)
        self.values: Tensor = _fronted(values, free)
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Keys and values without the zeros behind; views."""
        end = self.free + self.kept
        return self.keys[:, :, :end], self.values[:, :, :end]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: a layer is made full."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes those of one token, (1, h_kv, 1, d_head), and gives all back, to be masked."""
        self.keys.index_copy_(2, self.index, key_states)
        self.values.index_copy_(2, self.index, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        return self.kept

    def get_max_length(self) -> int:
        return self.kept + self.free


class SlotCache(Cache):
    """A cache of one sequence that is only ever extended by one token at a time.

    written  tokens since `of`, all of them in every layer
    slot     (1,) int64 on the device: where the next one goes
    """

    def __init__(self, layers: list[Any], slot: Tensor, first: int, free: int) -> None:
        super().__init__(layers=layers)
        self.slot, self.free, self.written = slot, free, 0
        self._first, self._used = first, 0
        self._lay_masks()

    @property
    def _slotted(self) -> list[SlotLayer]:
        held: list[Any] = self.layers
        return held

    @classmethod
    def of(cls, cache: DynamicCache, free: int = SLOTS) -> SlotCache:
        """Takes over what `cache` holds, layer by layer: afterwards that one is empty, and no more
        than one layer was ever held twice. Tensors that others hold too are left to them."""
        first = cache.get_seq_length()
        held: list[Any] = cache.layers
        slot = torch.zeros(1, dtype=torch.int64, device=held[0].keys.device)
        layers = []
        for layer in held:
            keys, values = layer.keys, layer.values
            layer.keys = layer.values = None
            layer.is_initialized = False
            layers.append(SlotLayer(keys, values, free, slot))
            del keys, values
        return cls(layers, slot, first, free)

    @property
    def full(self) -> bool:
        return self._used == self.free

    @property
    def nbytes(self) -> int:
        """Bytes of all layers, free slots and masks included."""
        held = [part for layer in self._slotted for part in (layer.keys, layer.values)]
        return sum(part.numel() * part.element_size() for part in (*held, self._masks))

    def mask(self, layer: int) -> Tensor:
        """(1, 1, 1, keys) of the model's dtype: 0 where written, else -inf; a view that changes."""
        return self._views[layer]

    def open(self) -> None:
        """Makes the next slot the one that is written and seen. May be repeated.

        Raises ValueError where all are full: `grow` first.
        """
        if self.full:
            raise ValueError(f"all {self.free} slots are written: grow the cache first")
        self.slot.fill_(self._used)
        self._masks[:, self._used] = 0

    def close(self) -> None:
        """What was opened has been written."""
        self._used += 1
        self.written += 1

    def grow(self) -> None:
        """As many free slots again in front of all there is; every tensor but `slot` is new."""
        for index, layer in enumerate(self._slotted):
            keys, values = layer.parts
            self.layers[index] = SlotLayer(keys, values, self.free, self.slot)
            del keys, values
        self._used = 0
        self._lay_masks()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Of layer 0, where nothing is ever removed: the position of the next token."""
        return self._first + self.written

    def _lay_masks(self) -> None:
        """One row for each length that occurs, so that one write opens a slot in all of them."""
        layers = self._slotted
        lengths = sorted({layer.kept for layer in layers})
        device, dtype = layers[0].device, layers[0].dtype
        wide = max(layer.keys.shape[2] for layer in layers)
        at = torch.arange(wide, device=device)
        ends = torch.tensor(lengths, device=device)[:, None] + self.free
        seen = (at >= self.free) & (at < ends)
        self._masks = torch.zeros(seen.shape, dtype=dtype, device=device)
        self._masks.masked_fill_(~seen, float("-inf"))
        self._views = [
            self._masks[lengths.index(layer.kept), : layer.keys.shape[2]].view(1, 1, 1, -1)
            for layer in layers
        ]


def _fronted(part: Tensor, free: int) -> Tensor:
    """(1, h_kv, aligned(free + n), d_head) of (1, h_kv, n, d_head). What is not written yet is 0:
    a weight of 0 times whatever memory held before could be no number."""
    rows, heads, kept, width = part.shape
    length = -(-(free + kept) // _ALIGNED) * _ALIGNED
    fronted = part.new_empty(rows, heads, length, width)
    fronted[:, :, :free] = 0
    fronted[:, :, free : free + kept] = part
    fronted[:, :, free + kept :] = 0
    return fronted
