"""Data-parallel training on the cores of one machine, and the optimiser both stages use.

Small models waste threads inside one operation, so each rank is a process with one thread that
makes its own batches; gradients are averaged over gloo. Muon's orthogonalisation is shared out:
each rank updates its part of the matrices and broadcasts it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

# Must be set before torch starts its threads: spinning threads starve each other under load.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn


def launch(worker: Callable[..., None], ranks: int, *arguments: object) -> None:
    """Runs `worker(rank, ranks, *arguments)` in `ranks` processes and waits for them."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        spawn(_enter, (worker, ranks, meeting, arguments), nprocs=ranks, join=True)


def _enter(
    rank: int,
    worker: Callable[..., None],
    ranks: int,
    meeting: str,
    arguments: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # softmax tails; denormals are many times slower
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    try:
        worker(rank, ranks, *arguments)
    finally:
        dist.destroy_process_group()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the ranks (a missing one counts as zero)."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for parameter in parameters:
        if parameter.grad is not None:
            count = parameter.numel()
            parameter.grad.copy_(flat[at : at + count].view_as(parameter))
            at += count


def total(values: dict[str, float]) -> dict[str, float]:
    """The sum over the ranks of each value; all ranks must pass the same keys."""
    flat = torch.tensor([values[key] for key in sorted(values)], dtype=torch.float64)
    dist.all_reduce(flat)
    return dict(zip(sorted(values), flat.tolist(), strict=True))


class Optimizer:
    """Muon on the matrices, shared over the ranks, and AdamW on everything else, at one rate."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        rank: int,
        ranks: int,
        decay: float,
    ) -> None:
        ordered = sorted(matrices, key=lambda p: -p.numel())
        self.shares = [ordered[part::ranks] for part in range(ranks)]
        self.others = list(others)
        self.parameters = [*ordered, *self.others]
        self.rank = rank
        self.muon = torch.optim.Muon(
            self.shares[rank],
            lr=1e-3,
            momentum=0.95,
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adamw = torch.optim.AdamW(self.others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, rate: float, clip: float = 1.0) -> float:
        """One update from the ranks' gradients; returns the norm before clipping."""
        average_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, clip))
        for optimizer in (self.muon, self.adamw):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()  # type: ignore[no-untyped-call]
        for source, share in enumerate(self.shares):
            flat = torch.cat([p.detach().reshape(-1) for p in share])
            dist.broadcast(flat, source)
            if source != self.rank:
                _scatter(flat, share)
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def _scatter(flat: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    at = 0
    with torch.no_grad():
        for parameter in parameters:
            count = parameter.numel()
            parameter.copy_(flat[at : at + count].view_as(parameter))
            at += count


def save(state: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint that is either the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
