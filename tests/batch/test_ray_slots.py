"""Which workers a cluster has room for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch.ray_slots import Node, slots
from tokenreduce.errors import CapacityError, SettingError

FOUR = [Node(f"node {n}", f"10.0.0.{n}", 64, 8) for n in range(1, 5)]
HEAD = Node("head", "10.0.0.100", 8, 0)


def test_one_on_each_gpu() -> None:
    found = slots([HEAD, *FOUR], "auto", None)
    assert len(found) == len({slot.name for slot in found}) == 32
    assert found[0].name == "10.0.0.1/cuda:0"
    assert found[31].name == "10.0.0.4/cuda:7"
    assert Counter(slot.node for slot in found) == {node.id: 8 for node in FOUR}
    assert {(slot.device, slot.gpus, slot.cpus, slot.threads) for slot in found} == {
        ("cuda", 1.0, 1.0, 8)
    }


def test_fewer_than_gpus_are_spread_and_more_share() -> None:
    assert [slot.name for slot in slots(FOUR, "cuda", 6)] == [
        "10.0.0.1/cuda:0",
        "10.0.0.1/cuda:1",
        "10.0.0.2/cuda:0",
        "10.0.0.2/cuda:1",
        "10.0.0.3/cuda:0",
        "10.0.0.4/cuda:0",
    ]
    one = [Node("a", "10.0.0.1", 4, 1)]
    shared = slots(one, "auto", 3)
    assert [slot.name for slot in shared] == [f"10.0.0.1/cuda:0/{n}" for n in (1, 2, 3)]
    assert sum(slot.gpus for slot in shared) <= 1
    assert {slot.gpus for slot in shared} == {0.3333}


def test_on_cpus_threads_are_shared_out() -> None:
    assert [(slot.name, slot.threads) for slot in slots([HEAD], "cpu", 1)] == [
        ("10.0.0.100/cpu", 8)
    ]
    two = [Node("a", "10.0.0.1", 4, 0), Node("b", "10.0.0.2", 3, 0)]
    found = slots(two, "auto", 2)
    assert [(slot.name, slot.threads, slot.cpus) for slot in found] == [
        ("10.0.0.1/cpu", 3, 3),
        ("10.0.0.2/cpu", 3, 3),
    ]
    assert [slot.name for slot in slots(two, "cpu", 3)] == [
        "10.0.0.1/cpu/1",
        "10.0.0.1/cpu/2",
        "10.0.0.2/cpu",
    ]
    assert {slot.gpus for slot in slots(FOUR, "cpu", 4)} == {0}


def test_two_nodes_on_one_machine_are_told_apart() -> None:
    twice = [Node("a", "10.0.0.1", 2, 1), Node("b", "10.0.0.1", 2, 1)]
    assert [(slot.name, slot.node, slot.ip) for slot in slots(twice, "auto", None)] == [
        ("10.0.0.1/cuda:0", "a", "10.0.0.1"),
        ("10.0.0.1#2/cuda:0", "b", "10.0.0.1"),
    ]


@pytest.mark.parametrize(
    ("device", "workers", "error", "said"),
    [
        ("mps", None, SettingError, "give auto, cuda or cpu"),
        ("cuda:1", 2, SettingError, "--device cuda:1"),
        ("auto", None, CapacityError, "has no GPU: give --workers N"),
        ("cpu", None, CapacityError, "--workers N"),
        ("cuda", 3, CapacityError, "no node of the Ray cluster has a GPU"),
        ("auto", 9, CapacityError, "has 8 CPUs"),
    ],
)
def test_where_there_is_no_room_one_line_says_so(
    device: str, workers: int | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        slots([HEAD], device, workers)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


_NODES = st.lists(
    st.builds(
        Node,
        st.just(""),
        st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        st.integers(0, 12),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=4,
)


@given(nodes=_NODES, workers=st.integers(1, 12), device=st.sampled_from(["auto", "cpu"]))
def test_what_is_given_out_is_there(nodes: list[Node], workers: int, device: str) -> None:
    nodes = [Node(str(at), one.ip, one.cpus, one.gpus) for at, one in enumerate(nodes)]
    try:
        found = slots(nodes, device, workers)
    except CapacityError:
        assert workers > sum(node.cpus for node in nodes)
        return
    assert len(found) == len({slot.name for slot in found}) == workers
    for node in nodes:
        here = [slot for slot in found if slot.node == node.id]
        assert sum(slot.cpus for slot in here) <= node.cpus + 1e-9
        assert sum(slot.gpus for slot in here) <= node.gpus
        assert all(slot.threads >= 1 for slot in here)
