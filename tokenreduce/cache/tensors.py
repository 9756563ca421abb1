"""An entry's tensors, written and read with their digests; knows no folder and no index.

Read by hand and not by the safetensors library: that maps the file, which a change under it turns
into a crash, or copies it, which doubles the memory. Here what was checked is what is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import RawIOBase
from typing import BinaryIO, cast

import torch
from torch import Tensor

from . import head as heads
from .digest import of_bytes
from .head import ITEM_BYTES, Head, Laid, Unsound, encode

_DTYPES: Mapping[str, torch.dtype] = {
    "I64": torch.int64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def check(tensors: Mapping[str, Tensor]) -> None:
    """Raises Unsound unless `tensors` hold visual tokens (see `head.check`): x finite, size above 0
    and finite, place at least 0 and strictly ascending. ValueError for a dtype that is not kept."""
    heads.check({name: (_dtype(name, one), tuple(one.shape)) for name, one in tensors.items()})
    x, size, place = tensors["x"], tensors["size"], tensors["place"]
    # NaN is passed on by both; no mask as large as x is made.
    if not all(bool(end.isfinite()) for end in torch.aminmax(x)):
        raise Unsound("x is not finite")
    if not bool(((size > 0) & size.isfinite()).all()):
        raise Unsound("a size that is no number of patches")
    if bool((place < 0).any()) or bool((place.diff(dim=1) <= 0).any()):
        raise Unsound("places out of order")


def write(
    file: BinaryIO,
    family: Mapping[str, object],
    variant: Mapping[str, object],
    facts: Mapping[str, object],
    tensors: Mapping[str, Tensor],
) -> None:
    """An entry into an empty file. Raises OSError as the file does."""
    # The widest first, so that each begins at a multiple of its own item size.
    order = sorted(tensors, key=lambda name: (-ITEM_BYTES[_NAMES[tensors[name].dtype]], name))
    views: list[memoryview] = []
    laid: dict[str, Laid] = {}
    at = 0
    for name in order:
        tensor, view = tensors[name], _view(tensors[name])
        stop = at + view.nbytes
        laid[name] = Laid(_NAMES[tensor.dtype], tuple(tensor.shape), at, stop, of_bytes(view))
        views.append(view)
        at = stop
    file.write(encode(Head(family, variant, facts, laid)))
    for view in views:
        file.write(view)


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the data."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def read(file: RawIOBase, head: Head) -> dict[str, Tensor]:
    """The tensors of an unbuffered file that stands at its data; views of one buffer on the CPU.
    Raises Unsound where digests or shapes disagree, OSError as the file does."""
    buffer = torch.empty(head.data_bytes, dtype=torch.uint8)
    data = _view(buffer)
    filled = 0
    while filled < len(data):
        count = file.readinto(data[filled:])
        if not count:
            raise Unsound("shorter than its head says")
        filled += count
    tensors: dict[str, Tensor] = {}
    for name, laid in head.tensors.items():
        if of_bytes(data[laid.start : laid.stop]) != laid.digest:
            raise Unsound(f"the bytes of {name} are not those that were written")
        tensors[name] = buffer[laid.start : laid.stop].view(_DTYPES[laid.dtype]).view(laid.shape)
    check(tensors)
    return tensors


def _dtype(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in _NAMES:
        raise ValueError(f"tensor {name} is {tensor.dtype}; kept are: {', '.join(ITEM_BYTES)}")
    return _NAMES[tensor.dtype]


def _view(tensor: Tensor) -> memoryview:
    """Its bytes; of a copy unless it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return memoryview(cast(memoryview, flat.numpy()))
