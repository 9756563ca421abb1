"""An entry comes back bit for bit, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenreduce.cache.head import FORMAT, canonical
from tokenreduce.cache.store import Cache

Visual = Callable[..., dict[str, Tensor]]
_once = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
OBJECT = st.dictionaries(st.text(max_size=4), JSON, max_size=4)


@given(
    variant=OBJECT,
    facts=OBJECT,
    n=st.integers(1, 40),
    d=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@_once
def test_it_comes_back_bit_for_bit(
    cache: Cache, visual: Visual, variant: Any, facts: Any, n: int, d: int, dtype: torch.dtype
) -> None:
    tensors = visual(n, d, dtype) | {"more": torch.arange(7)}
    family = {"n": n, "d": d, "dtype": str(dtype), "variant": variant}  # 1 == True to Python
    cache.save(family, variant, tensors, facts)
    (entry,) = cache.lookup(family)
    loaded = cache.load(entry)
    assert cache.trouble is None
    assert loaded is not None
    assert (loaded.facts, entry.facts) == (facts, facts)
    assert (entry.family, entry.variant) == (family, variant)
    assert (entry.tokens, entry.shapes["x"]) == (n, (1, n, d))
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_the_file_is_what_safetensors_reads(kept: Path, visual: Visual) -> None:
    read = safetensors.torch.load_file(kept)
    assert all(torch.equal(read[name], tensor) for name, tensor in visual().items())
    with safetensors.safe_open(kept, "pt") as file:
        assert file.metadata()["format"] == FORMAT
        assert json.loads(file.metadata()["head"])["variant"] == {"budget": 5}
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700


def test_views_and_gradients_are_kept_as_values(cache: Cache, visual: Visual) -> None:
    tensors = visual(6, 4, torch.float32)
    wide = torch.randn(1, 6, 8)
    tensors["x"] = wide[..., ::2].requires_grad_()
    cache.save({}, {}, tensors, {})
    loaded = cache.load(cache.lookup({})[0])
    assert loaded is not None
    assert torch.equal(loaded.tensors["x"], wide[..., ::2])
    assert not loaded.tensors["x"].requires_grad


@given(data=st.data())
@_once
def test_no_damaged_byte_gets_through(
    cache: Cache, family: dict[str, Any], kept: Path, visual: Visual, data: st.DataObject
) -> None:
    kept_bytes = _written_again(cache, family, kept, visual)
    at = data.draw(st.integers(0, len(kept_bytes) - 1))
    flipped = data.draw(st.integers(1, 255))
    (entry,) = cache.lookup(family)
    kept.write_bytes(kept_bytes[:at] + bytes([kept_bytes[at] ^ flipped]) + kept_bytes[at + 1 :])
    _only_the_truth(cache, entry, family, visual)


@given(data=st.data())
@_once
def test_no_shortened_or_lengthened_file_gets_through(
    cache: Cache, family: dict[str, Any], kept: Path, visual: Visual, data: st.DataObject
) -> None:
    kept_bytes = _written_again(cache, family, kept, visual)
    (entry,) = cache.lookup(family)
    end = data.draw(st.integers(0, len(kept_bytes) - 1))
    kept.write_bytes(data.draw(st.sampled_from([kept_bytes[:end], kept_bytes + kept_bytes[end:]])))
    assert cache.load(entry) is None
    assert not kept.exists()
    assert cache.trouble is None


def _written_again(cache: Cache, family: dict[str, Any], kept: Path, visual: Visual) -> bytes:
    cache.save(family, {"budget": 5}, visual(), {"file": "a.mp4", "frame_seconds": [0.0, 0.1]})
    return kept.read_bytes()


def _only_the_truth(cache: Cache, entry: Any, family: dict[str, Any], visual: Visual) -> None:
    """A space between two parts of the header may become a tab; nothing else goes unnoticed."""
    listed = cache.lookup(family)
    loaded = cache.load(entry)
    if loaded is not None:
        assert listed == (entry,)
        assert loaded.facts == entry.facts
        assert all(torch.equal(loaded.tensors[name], one) for name, one in visual().items())
    assert cache.trouble is None


def test_a_foreign_file_under_its_name_is_dropped(
    cache: Cache, family: dict[str, Any], kept: Path, visual: Visual
) -> None:
    safetensors.torch.save_file(visual(), kept)
    assert cache.lookup(family) == ()
    assert not kept.exists()


def test_another_whole_entry_under_its_name_is_dropped(
    cache: Cache, family: dict[str, Any], kept: Path, visual: Visual
) -> None:
    (entry,) = cache.lookup(family)
    cache.save(family, {"budget": 4}, visual(4), {})
    (other,) = (path for path in kept.parent.glob("*.safetensors") if path != kept)
    shutil.copy(other, kept)
    assert cache.load(entry) is None
    assert [one.variant for one in cache.lookup(family)] == [{"budget": 4}]


def test_it_is_recomputed_and_kept_again(
    cache: Cache, family: dict[str, Any], kept: Path, visual: Visual
) -> None:
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1])
    assert cache.lookup(family) == ()
    assert _written_again(cache, family, kept, visual) == whole


def _forged(kept: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites a head, with the right check."""
    import hashlib

    data = kept.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    head = json.loads(table["__metadata__"]["head"])
    change(head)
    text = json.dumps(head, sort_keys=True, separators=(",", ":"))
    table["__metadata__"]["head"] = text
    table["__metadata__"]["check"] = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    header = json.dumps(table).encode()
    kept.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head["facts"].update(frame_seconds=[float("nan")]),
        lambda head: head["facts"].update(frame_seconds=[float("inf")]),
        lambda head: head.update(facts=[1]),
        lambda head: head["variant"].update(budget=6),
        lambda head: head["tensors"].pop("size"),
        lambda head: head["tensors"]["x"].__setitem__(1, [1, 8, 5]),
        lambda head: head["tensors"]["x"].__setitem__(1, [1, -5, -8]),
        lambda head: head["tensors"]["x"].__setitem__(0, "F64"),
        lambda head: head["tensors"]["x"].__setitem__(4, "0" * 64),
        lambda head: head["tensors"].update(x="12345"),
        lambda head: head.update(tensors=[]),
        lambda head: head.update(tensors=None),
    ],
)
def test_a_head_that_says_what_cannot_be_is_not_believed(
    cache: Cache, family: dict[str, Any], kept: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    (entry,) = cache.lookup(family)
    _forged(kept, lambda _: None)
    assert cache.load(entry) is not None  # the forger knows the trade
    _forged(kept, change)
    assert cache.load(entry) is None
    assert not kept.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"\xff" * 64, b"[" * 200_000, b"x" * 5000, b"{}", b"[]", b"null", b"\xff"],
)
def test_rubbish_is_no_entry(
    cache: Cache, family: dict[str, Any], kept: Path, content: bytes
) -> None:
    for framed in (content, len(content).to_bytes(8, "little") + content):
        kept.write_bytes(framed)
        assert cache.lookup(family) == ()
        assert not kept.exists()
    assert cache.trouble is None


def _x(x: Tensor) -> dict[str, Tensor]:
    n = x.shape[1]
    return {"x": x, "size": torch.ones(1, n), "place": torch.arange(n)[None]}


@pytest.mark.parametrize(
    "tensors",
    [
        _x(torch.tensor([[[1.0], [float("nan")]]])),
        _x(torch.tensor([[[1.0], [float("-inf")]]], dtype=torch.bfloat16)),
        _x(torch.ones(2, 3, 4)),
        _x(torch.ones(1, 0, 4)),
        _x(torch.ones(1, 3, 4, dtype=torch.int64)),
        _x(torch.ones(1, 3, 4)) | {"size": torch.ones(1, 2)},
        _x(torch.ones(1, 3, 4)) | {"size": torch.tensor([[1.0, 0.0, 1.0]])},
        _x(torch.ones(1, 3, 4)) | {"size": torch.full((1, 3), float("inf"))},
        _x(torch.ones(1, 3, 4)) | {"place": torch.tensor([[0, 2, 2]])},
        _x(torch.ones(1, 3, 4)) | {"place": torch.tensor([[-1, 0, 2]])},
        _x(torch.ones(1, 3, 4)) | {"place": torch.ones(1, 3)},
        {"x": torch.ones(1, 3, 4)},
    ],
)
def test_what_are_no_visual_tokens_is_not_kept(cache: Cache, tensors: dict[str, Tensor]) -> None:
    cache.save({}, {}, tensors, {})
    assert cache.entries() == ()
    assert cache.trouble is None


def test_what_half_precision_sums_to_infinity_is_kept(cache: Cache) -> None:
    cache.save({}, {}, _x(torch.full((1, 4, 4), 60_000.0, dtype=torch.float16)), {})
    assert len(cache.lookup({})) == 1


def test_a_mistake_of_the_caller_is_an_error(cache: Cache, visual: Visual) -> None:
    with pytest.raises(ValueError, match="JSON"):
        cache.save({}, {}, visual(), {"seconds": float("nan")})
    with pytest.raises(TypeError):
        cache.lookup({"path": Path("a")})
    with pytest.raises(ValueError, match=r"tensor more is torch\.float64; kept are: I64, F32"):
        cache.save({}, {}, visual() | {"more": torch.ones(1, dtype=torch.float64)}, {})


def test_tuples_are_lists_and_order_is_none() -> None:
    assert canonical({"b": (1, 2), "a": 1}) == canonical({"a": 1, "b": [1, 2]})
