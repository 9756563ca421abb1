"""Which workers a Ray cluster has room for: one a GPU, or so many on CPUs. Knows nodes as numbers.

Imports no Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenreduce.batch.ray_orders import Slot
from tokenreduce.errors import CapacityError, SettingError

_PARTS = 10_000
"""Ray counts resources in these parts of one."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster. cpus, gpus: what it offers in all, in use or not; label: what it is
    called, its address where that tells it from others."""

    id: str
    ip: str
    cpus: float
    gpus: float
    label: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Node:
        """From an entry of `ray.nodes()`."""
        has = told.get("Resources", {})
        return cls(
            told["NodeID"],
            told["NodeManagerAddress"],
            float(has.get("CPU", 0)),
            float(has.get("GPU", 0)),
        )


def slots(nodes: Sequence[Node], device: str, workers: int | None) -> tuple[Slot, ...]:
    """Room for `workers`, or for one on each GPU; fewer than there are GPUs are spread over nodes.

    device: auto, cuda or cpu. Raises SettingError for any other one, CapacityError where there is
    no room.

    >>> two = [Node("a", "10.0.0.1", 16, 2), Node("b", "10.0.0.2", 16, 2)]
    >>> [slot.name for slot in slots(two, "auto", None)]
    ['10.0.0.1/cuda:0', '10.0.0.1/cuda:1', '10.0.0.2/cuda:0', '10.0.0.2/cuda:1']
    """
    if device not in ("auto", "cuda", "cpu"):
        raise SettingError(
            f"--device {device}: in a cluster Ray hands out the GPUs; give auto, cuda or cpu"
        )
    nodes = _told_apart(nodes)
    if device != "cpu" and any(node.gpus >= 1 for node in nodes):
        return _on_gpus(nodes, workers)
    if device == "cuda":
        raise CapacityError("device cuda: no node of the Ray cluster has a GPU")
    if workers is None:
        lacks = "has no GPU" if device == "auto" else "is to use no GPU"
        raise CapacityError(f"the Ray cluster {lacks}: give --workers N for N workers on CPUs")
    return _on_cpus(nodes, workers)


def _on_gpus(nodes: Sequence[Node], workers: int | None) -> tuple[Slot, ...]:
    cards = [(index, at) for at, node in enumerate(nodes) for index in range(int(node.gpus))]
    count = len(cards) if workers is None else workers
    share = math.ceil(count / len(cards))  # workers a GPU, at most
    chosen = sorted(cards) * share  # the first of each node, then the second of each
    made = []
    for number, (index, at) in enumerate(chosen[:count]):
        node = nodes[at]
        name = f"{node.label}/cuda:{index}"
        made.append(
            Slot(
                name if share == 1 else f"{name}/{number // len(cards) + 1}",
                node.id,
                node.ip,
                "cuda",
                _rounded(min(1.0, node.cpus / node.gpus) / share),
                _rounded(1 / share),
                max(1, int(node.cpus / node.gpus / share)),
            )
        )
    order = {node.id: at for at, node in enumerate(nodes)}
    return tuple(sorted(made, key=lambda slot: order[slot.node]))


def _on_cpus(nodes: Sequence[Node], workers: int) -> tuple[Slot, ...]:
    total = sum(int(node.cpus) for node in nodes)
    if workers > total:
        raise CapacityError(
            f"--workers {workers}: the Ray cluster has {total} CPUs, and each worker needs one"
        )
    threads = total // workers
    while sum(int(node.cpus) // threads for node in nodes) < workers:
        threads -= 1  # what is left over on the nodes is no room
    places = sorted(
        (turn, at) for at, node in enumerate(nodes) for turn in range(int(node.cpus) // threads)
    )[:workers]
    here = Counter(at for _, at in places)
    made = []
    for turn, at in sorted(places, key=lambda place: (place[1], place[0])):
        node = nodes[at]
        name = f"{node.label}/cpu" if here[at] == 1 else f"{node.label}/cpu/{turn + 1}"
        made.append(Slot(name, node.id, node.ip, "cpu", threads, 0, threads))
    return tuple(made)


def _told_apart(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Several on one machine have its address; the second is called 10.0.0.1#2."""
    seen = Counter[str]()
    made = []
    for node in nodes:
        seen[node.ip] += 1
        label = node.ip if seen[node.ip] == 1 else f"{node.ip}#{seen[node.ip]}"
        made.append(replace(node, label=label))
    return tuple(made)


def _rounded(share: float) -> float:
    """Down, so that all who share find room."""
    return math.floor(share * _PARTS) / _PARTS
