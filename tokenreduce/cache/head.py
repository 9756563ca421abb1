"""What an entry says of itself, as the header of its safetensors file; knows no tensors' values.

    8 bytes  length of the header, little endian
    header   JSON; "__metadata__" holds `format`, `head` (canonical JSON: family, variant, facts,
             and of each tensor dtype, shape, offsets and digest) and `check`, the head's digest
    data     the tensors' bytes, nothing before, between or after them

Any safetensors reader can read the file. An entry's name is the digest of its family followed by
that of its variant, so that a family's entries are found by name alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import RawIOBase
from typing import Any

FORMAT = "tokenreduce visual tokens 1"
NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.safetensors")
ITEM_BYTES: Mapping[str, int] = {"I64": 8, "F32": 4, "BF16": 2, "F16": 2}

_LONGEST_BYTES = 64 << 20


class Unsound(Exception):
    """A file that is no whole entry of this format. Never leaves this package."""


@dataclass(frozen=True)
class Laid:
    """Where a tensor lies: bytes `start` to `stop` of the data. digest: of those bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    digest: str

    @property
    def size_bytes(self) -> int:
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class Head:
    """family, variant and facts hold what JSON can say; tensors: in the order of the data."""

    family: Mapping[str, Any]
    variant: Mapping[str, Any]
    facts: Mapping[str, Any]
    tensors: Mapping[str, Laid]

    @property
    def name(self) -> str:
        return name_of(self.family, self.variant)

    @property
    def data_bytes(self) -> int:
        return max((laid.stop for laid in self.tensors.values()), default=0)


def canonical(value: object) -> str:
    """JSON with keys in order, in ASCII. Raises ValueError or TypeError for what JSON cannot say,
    NaN and infinity included."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def prefix_of(family: Mapping[str, object]) -> str:
    """How the names of a family's entries begin."""
    return _short(canonical(family)) + "-"


def name_of(family: Mapping[str, object], variant: Mapping[str, object]) -> str:
    return f"{prefix_of(family)}{_short(canonical(variant))}.safetensors"


def check(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises Unsound unless these dtypes and shapes are those of visual tokens, at least one: x
    (1, n, d) floating, size (1, n) float32, place (1, n) int64. Others may stand beside them."""
    try:
        (dtype, shape), size, place = tensors["x"], tensors["size"], tensors["place"]
    except KeyError as error:
        raise Unsound(f"no tensor {error}") from error
    if dtype == "I64" or len(shape) != 3 or shape[0] != 1 or 0 in shape:
        raise Unsound(f"x is {dtype} {shape}")
    if size != ("F32", shape[:2]) or place != ("I64", shape[:2]):
        raise Unsound(f"x is {shape}, size is {size}, place is {place}")


def encode(head: Head) -> bytes:
    """The file up to its data."""
    text = canonical(
        {
            "family": head.family,
            "variant": head.variant,
            "facts": head.facts,
            "tensors": {
                name: [laid.dtype, laid.shape, laid.start, laid.stop, laid.digest]
                for name, laid in head.tensors.items()
            },
        }
    )
    table: dict[str, object] = {
        "__metadata__": {"format": FORMAT, "head": text, "check": _check(text)},
        **{name: _described(laid) for name, laid in head.tensors.items()},
    }
    header = json.dumps(table).encode("ascii")
    header += b" " * (-len(header) % 8)  # data aligned, as safetensors wants it
    return len(header).to_bytes(8, "little") + header


def read(file: RawIOBase) -> Head:
    """The head of the entry that `file` holds, which is left standing at the data. Raises Unsound
    for anything else, a file that is longer or shorter than its head says included."""
    size_bytes = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size_bytes - 8, _LONGEST_BYTES):
        raise Unsound("no header")
    try:
        head = _decoded(json.loads(file.read(length)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Unsound("another header") from error
    check({name: (laid.dtype, laid.shape) for name, laid in head.tensors.items()})
    if 8 + length + head.data_bytes != size_bytes:
        raise Unsound("another length")
    return head


def _decoded(table: dict[str, Any]) -> Head:
    about = table.pop("__metadata__")
    text = about["head"]
    if about["format"] != FORMAT or about["check"] != _check(text):
        raise Unsound("another format or a damaged head")
    said = json.loads(text)
    if canonical(said) != text:  # 1e999, say, is infinity and no fact
        raise Unsound("not canonical")
    laid = {name: _laid(*row) for name, row in said["tensors"].items()}
    ordered = dict(sorted(laid.items(), key=lambda pair: pair[1].start))
    at = 0
    for one in ordered.values():
        if one.start != at or one.stop - one.start != one.size_bytes:
            raise Unsound("tensors overlap or leave gaps")
        at = one.stop
    if table != {name: _described(one) for name, one in laid.items()}:
        raise Unsound("two descriptions that disagree")
    parts = (said["family"], said["variant"], said["facts"])
    if not all(isinstance(part, dict) for part in parts):
        raise Unsound("no objects")
    return Head(*parts, ordered)


def _laid(dtype: str, shape: list[int], start: int, stop: int, digest: str) -> Laid:
    if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        raise Unsound("no lengths")
    return Laid(dtype, tuple(shape), start, stop, digest)


def _described(laid: Laid) -> dict[str, object]:
    """As safetensors says it."""
    return {
        "dtype": laid.dtype,
        "shape": list(laid.shape),
        "data_offsets": [laid.start, laid.stop],
    }


def _check(text: str) -> str:
    return hashlib.blake2b(text.encode("ascii"), digest_size=32).hexdigest()


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()
