"""Stage 2: projector, newline and Qwen2 on packed questions, behind the frozen tower.

The number of frames grows along `CURRICULUM`; nearly half of the batches pool frames to another
grid, so that the model does not lean on 42 tokens a frame. It never sees a merged or pruned token.

    python -m training.language [--folder runs/demo] [--ranks 2] [--steps 3300]
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreduce.demo.questions import KINDS
from tokenreduce.demo.world import NATIVE
from training.batches import Batch, Words, training_batch, varied
from training.model import AUXILIARY_WIDTH, WIDTH, DemoModel
from training.parallel import Optimizer, launch, save, total

log = logging.getLogger("training.language")
STEPS, RATE, WARMUP, FLAT, DECAY = 3300, 2.0e-3, 60, 0.35, 0.05
MIXED = 0.45  # share of the batches with another pooling grid
AUXILIARY = 0.3  # weight of the auxiliary loss
# Up to this share of the steps: the odds of each number of frames.
CURRICULUM: tuple[tuple[float, dict[int, float]], ...] = (
    (0.12, {1: 0.06, 2: 0.08, 4: 0.86}),
    (0.25, {1: 0.04, 4: 0.46, 8: 0.5}),
    (0.45, {1: 0.03, 4: 0.12, 8: 0.45, 16: 0.4}),
    (0.70, {1: 0.03, 4: 0.07, 8: 0.3, 16: 0.4, 32: 0.2}),
    (1.00, {1: 0.03, 4: 0.05, 8: 0.24, 16: 0.32, 32: 0.28, 64: 0.08}),
)
_COUNTERS = (
    "loss",
    "batches",
    *(f"{kind} {what}" for kind in KINDS for what in ("right", "asked")),
)
VIDEOS = {1: 20, 2: 16, 4: 12, 8: 8, 16: 6, 32: 4, 64: 2}  # a step, all ranks


def frames_at(progress: float, rng: np.random.Generator) -> tuple[int, int]:
    """Frames of a batch and the base count that they were varied from."""
    odds = next(odds for until, odds in CURRICULUM if progress <= until)
    base = int(rng.choice(list(odds), p=list(odds.values())))
    if base >= 4 and rng.random() < 0.3:
        return max(base + int(rng.integers(-(base // 4), base // 8 + 1)), 3), base
    return base, base


def schedule(progress: float, step: int, rate: float) -> float:
    """Warm-up, constant, cosine to 3 %."""
    if step < WARMUP:
        return rate * (step + 1) / WARMUP
    part = min(max((progress - FLAT) / (1.0 - FLAT), 0.0), 1.0)
    return rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * part)))


def loss(
    model: DemoModel, auxiliary: nn.Linear, batch: Batch
) -> tuple[Tensor, dict[str, list[bool]]]:
    """The training loss, and for each kind of question whether each answer was right."""
    hidden, early = model(batch.packed)
    targets = batch.packed.targets
    said = targets >= 0
    logits = functional.linear(hidden[said], model.llm.lm_head.weight).float()
    goal = targets[said]
    each = functional.cross_entropy(logits, goal, reduction="none")
    last = torch.zeros_like(targets, dtype=torch.bool)
    last[..., :-1] = said[..., :-1] & ~said[..., 1:]
    last[..., -1] = said[..., -1]
    weight = torch.where(last[said], 0.1, 1.0)  # the stop token is easy
    value = (each * weight).sum() / weight.sum()

    out = auxiliary(early).float()
    so_far, first, place = out.split([6, 1, 1], -1)
    went = batch.early[..., 0].long()
    real = went >= 0
    balance = torch.tensor([0.2, 1.0, 1.0, 1.0, 1.0, 1.0])
    object_ = went > 0
    extra = functional.cross_entropy(so_far[real], went[real], balance)
    extra = extra + functional.binary_cross_entropy_with_logits(
        first[object_][:, 0], batch.early[..., 1][object_]
    )
    extra = extra + 2 * functional.l1_loss(place[..., 0], batch.early[..., 2])

    with torch.no_grad():
        right = torch.ones_like(targets, dtype=torch.bool)
        right[said] = logits.argmax(-1) == goal
        whole = right.all(-1)
    marks: dict[str, list[bool]] = defaultdict(list)
    for video, asked in enumerate(batch.asked):
        for line, question in enumerate(asked):
            marks[question.kind].append(bool(whole[video, line]))
    return value + AUXILIARY * extra, marks


@dataclass
class Tally:
    """Marks since the last report, and each kind's running share right over all ranks."""

    running: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0.0))

    def add(self, marks: dict[str, list[bool]], value: float) -> None:
        self.sums["loss"] += value
        self.sums["batches"] += 1
        for kind in KINDS:
            self.sums[f"{kind} right"] += sum(marks[kind])
            self.sums[f"{kind} asked"] += len(marks[kind])

    def report(self) -> str:
        """Sums up over the ranks (all must call it) and begins anew."""
        summed = total(self.sums)
        for kind in KINDS:
            if asked := summed[f"{kind} asked"]:
                keep = 0.5 ** (asked / 100)  # half of the figure is the last hundred questions
                share = summed[f"{kind} right"] / asked
                self.running[kind] = self.running.get(kind, share) * keep + share * (1 - keep)
        self.sums = dict.fromkeys(_COUNTERS, 0.0)
        shares = " ".join(f"{kind} {self.running.get(kind, 0):.2f}" for kind in KINDS)
        return f"loss {summed['loss'] / summed['batches']:.3f} {shares}"


def optimizer_of(model: DemoModel, auxiliary: nn.Linear, rank: int, ranks: int) -> Optimizer:
    """Muon on the decoder's and the projector's matrices, AdamW on the rest."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [
        p for name, p in trained if p.ndim == 2 and ("layers." in name or "projector" in name)
    ]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in trained if id(p) not in chosen]
    return Optimizer(
        matrices, [*others, *auxiliary.parameters()], rank=rank, ranks=ranks, decay=DECAY
    )


def train(rank: int, ranks: int, folder: Path, steps: int, rate: float) -> None:
    """The whole run on one rank; continues from the folder's checkpoint when there is one."""
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    torch.manual_seed(7)
    words = Words(folder)
    model, auxiliary = DemoModel(words.size), nn.Linear(WIDTH, AUXILIARY_WIDTH)
    model.tower.load_state_dict(torch.load(folder / f"vision-{NATIVE}.pt")["tower"])
    optimizer = optimizer_of(model, auxiliary, rank, ranks)
    tally = Tally()
    path, own = folder / "language.pt", folder / f"language-{rank}.pt"
    first, spent, cpu = 0, 0.0, 0.0
    if path.exists():
        saved = torch.load(path)
        first, spent, cpu = saved["step"], saved["spent"], saved["cpu"]
        tally.running = saved["smooth"]
        model.load_state_dict(saved["model"])
        auxiliary.load_state_dict(saved["auxiliary"])
        optimizer.load_state_dict(torch.load(own))
    began, cpu_began = time.time() - spent, time.process_time() - cpu
    for step in range(first, steps):
        progress = step / steps
        batch = _batch(words, step, progress, rank, ranks)
        with torch.autocast("cpu", torch.bfloat16):
            value, marks = loss(model, auxiliary, batch)
        value.backward()
        norm = optimizer.step(schedule(progress, step, rate))
        tally.add(marks, float(value.detach()))
        last = step + 1 == steps
        if step % 20 == 19 or last:
            spent, cpu = time.time() - began, time.process_time() - cpu_began
            log.info(
                "step %d %s norm %.1f s %.0f cpu %.0f",
                *(step + 1, tally.report(), norm, spent, cpu * ranks),
            )
        if step % 100 == 99 or last:
            save(optimizer.state_dict(), own)
            if rank == 0:
                state = {"model": model.state_dict(), "auxiliary": auxiliary.state_dict()}
                so_far = {"step": step + 1, "smooth": tally.running, "spent": spent, "cpu": cpu}
                save({**state, **so_far}, path)


def _batch(words: Words, step: int, progress: float, rank: int, ranks: int) -> Batch:
    """This rank's batch; all ranks draw batches of one shape, so that none waits for another."""
    shared = np.random.default_rng((2, step))
    frames, base = frames_at(progress, shared)
    # 64 whole frames would cost as much as five steps: they are nearly always pooled.
    mixed = 0.9 if base == 64 else MIXED
    shape = varied(frames, shared, mixed, timed=bool(shared.random() < 0.5))
    rng = np.random.default_rng((3, step, rank))
    return training_batch(words, shape, max(VIDEOS[base] // ranks, 1), (step, rank), rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=RATE)
    options = parser.parse_args()
    launch(train, options.ranks, options.folder, options.steps, options.rate)


if __name__ == "__main__":
    main()
