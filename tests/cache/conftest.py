"""Visual tokens to keep, and a cache to keep them in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenreduce.cache.store import Cache

Visual = Callable[..., dict[str, Tensor]]
FAMILY: dict[str, Any] = {"file": "f" * 64, "range": [0.0, 12.5], "model": "demo", "seed": 0}


def _visual(n: int = 5, d: int = 8, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """n tokens of d channels, their values known."""
    x = torch.arange(n * d).reshape(1, n, d).to(dtype) / 8
    return {"x": x, "size": torch.arange(1.0, n + 1)[None], "place": torch.arange(n)[None] * 3}


@pytest.fixture(scope="session")
def visual() -> Visual:
    return _visual


@pytest.fixture(scope="session")
def family() -> dict[str, Any]:
    return FAMILY


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def inner(cache: Cache) -> Path:
    """Where its files lie, once there are any."""
    return cache.folder / "visual-tokens"


@pytest.fixture
def kept(cache: Cache, inner: Path) -> Path:
    """The file of one entry: FAMILY under a budget of 5."""
    cache.save(FAMILY, {"budget": 5}, _visual(), {"file": "a.mp4", "frame_seconds": [0.0, 0.1]})
    (path,) = inner.glob("*.safetensors")
    return path
