"""Chunks are reduced one behind, in order, and the last one too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tokenreduce.behind import Behind
from tokenreduce.clock import Clock
from tokenreduce.models.base import VideoModel
from tokenreduce.seen import Evidence


@dataclass
class _Tower:
    """Says what happens, in order."""

    told: list[str]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def look(self, pixels: Tensor, needs: Any) -> tuple[Tensor, Evidence]:
        self.told.append(f"look {int(pixels[0, 0, 0, 0])}")
        return pixels.flatten(1).float()[:, None], Evidence()


def _behind(told: list[str]) -> Behind:
    def reduce(features: Tensor, evidence: Evidence, stands: Any) -> None:
        told.append(f"reduce {int(features[0, 0, 0])} for {list(stands)}")

    return Behind(cast(VideoModel, _Tower(told)), frozenset(), Clock(), reduce)


def _chunk(number: int) -> Tensor:
    return torch.full((1, 2, 2, 3), number, dtype=torch.uint8)


def test_a_chunk_is_reduced_when_the_next_one_is_there_and_before_that_is_encoded() -> None:
    told: list[str] = []
    behind = _behind(told)
    behind.add(_chunk(1), [1])
    assert told == ["look 1"]
    behind.add(_chunk(2), [4])
    behind.finish()
    assert told == ["look 1", "reduce 1 for [1]", "look 2", "reduce 2 for [4]"]


@pytest.mark.parametrize("chunks", [0, 1])
def test_finishing_again_reduces_nothing_twice(chunks: int) -> None:
    told: list[str] = []
    behind = _behind(told)
    for number in range(chunks):
        behind.add(_chunk(number), [1])
    behind.finish()
    behind.finish()
    assert len(told) == 2 * chunks
