"""Which workers a machine has, and how many threads each of them."""

from __future__ import annotations

import pytest
import torch

from tokenreduce.batch.pool import MOST_ON_CPU, devices, fitting
from tokenreduce.memory import host_free_bytes

GIB = 1 << 30


def test_a_cpu_has_as_many_workers_as_cores_and_shares_its_threads() -> None:
    assert devices("cpu", "auto", 2, 10_000_000, 16 * GIB) == ({"cpu/1": "cpu", "cpu/2": "cpu"}, 1)
    names, threads = devices("cpu", "auto", 16, 10_000_000, 64 * GIB)
    assert (len(names), threads) == (MOST_ON_CPU, 4)


def test_a_large_model_is_loaded_once_on_a_cpu_and_has_all_its_threads() -> None:
    assert devices("cpu", "auto", 16, 16 * GIB, 64 * GIB) == ({"cpu": "cpu"}, None)


@pytest.mark.parametrize(
    ("cores", "weights", "free", "expected"),
    [(1, 0, 64 * GIB, 1), (8, 0, 2 * GIB, 1), (8, 0, 4 * GIB, 2), (8, GIB, 12 * GIB, 2)],
)
def test_half_of_the_free_memory_is_for_workers(
    cores: int, weights: int, free: int, expected: int
) -> None:
    assert fitting(cores, weights, free) == expected


def test_a_number_is_a_number_whatever_memory_there_is() -> None:
    assert len(devices("cpu", 3, 2, 16 * GIB, GIB)[0]) == 3


def test_each_gpu_has_a_worker_and_further_ones_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices("auto", "auto", 16) == ({"cuda:0": "cuda:0", "cuda:1": "cuda:1"}, None)
    names, threads = devices("auto", 3, 16)
    assert (list(names.values()), threads) == (["cuda:0", "cuda:1", "cuda:0"], None)
    assert devices("cuda:1", "auto", 16) == ({"cuda:1": "cuda:1"}, None)


def test_free_memory_is_told_in_bytes() -> None:
    free = host_free_bytes()
    assert free is None or free > 1 << 24
