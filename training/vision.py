"""Stage 1: the SigLIP tower, from single frames with dense labels.

Throw-away linear heads on every patch say which shape and colour it shows, where the centre of
that shape is and where the patch itself is; a head on each 2x2 block of patches says which
combinations of shape and colour it holds, so that what survives pooling is already linear.
The tower starts at 64 pixels and grows to 96: the position table is interpolated.

    python -m training.vision [--folder runs/demo] [--ranks 2]
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel

from tokenreduce.demo.scenes import offset
from tokenreduce.demo.world import COLORS, NATIVE, SHAPES, SIDE, STAR, Look, Renderer, Scene, Thing
from tokenreduce.demo.world import patch as shape_patch
from training.parallel import Optimizer, launch, save, total

log = logging.getLogger("training.vision")
KINDS = (*SHAPES, STAR)
HUES = tuple(COLORS)
PATCH = 8
IGNORE = -100


@dataclass(frozen=True)
class Plan:
    """One stage: pixels along an edge, frames a step (all ranks), steps and learning rate."""

    pixels: int
    batch: int
    steps: int
    rate: float
    warmup: int
    flat: float  # share of the steps before the cosine decay begins


STAGES = (
    Plan(pixels=64, batch=64, steps=1300, rate=2.5e-3, warmup=40, flat=0.3),
    Plan(pixels=NATIVE, batch=48, steps=1100, rate=2.0e-3, warmup=30, flat=0.2),
)


def tower(pixels: int) -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=pixels,
        patch_size=PATCH,
        vision_use_head=False,
    )
    model = SiglipVisionModel(config)
    nn.init.normal_(model.embeddings.position_embedding.weight, std=0.5)
    nn.init.normal_(model.embeddings.patch_embedding.weight, std=1 / math.sqrt(3 * PATCH * PATCH))
    return model


def features(model: SiglipVisionModel, pixels: Tensor) -> Tensor:
    """Output of the last encoder layer, before post_layernorm, [frames, patches, width]."""
    output = model.encoder(inputs_embeds=model.embeddings(pixels))
    hidden: Tensor = output.last_hidden_state
    return hidden


def normalise(frames: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] to the tower's float input [n, 3, h, w] in -1..1."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def draw(rng: np.random.Generator, pixels: int) -> tuple[Any, Any]:
    """A random frame and, per patch, [kind, hue, centre x, centre y] and cell labels [c, c, 30]."""
    things = []
    for _ in range(5):
        if rng.random() < 0.65:
            radius = float(rng.uniform(7.8, 10.5))
            x, y = (float(v) for v in rng.uniform(radius + 1, SIDE - radius - 1, 2))
            kind, hue = str(rng.choice(KINDS)), str(rng.choice(HUES))
            things.append(Thing(kind, hue, radius, (x, y), (x, y), "still", 0.0, 9.0, 0.0, 1.0))
    look = Look(
        key=(int(rng.integers(1 << 62)),),
        grey=float(rng.uniform(0.18, 0.53)),
        gain=float(1.0 + 0.12 * rng.uniform(-1, 1)),
        offset=offset(rng),
        softness=float(rng.uniform(1.0, 2.6)) if rng.random() < 0.6 else 0.7,
        noise=float(rng.uniform(0.0, 0.045)),
    )
    frame = Renderer(Scene(1.0, tuple(things), (), look), pixels).frame(0.5)
    return frame, _labels(things, pixels)


def _labels(things: list[Thing], pixels: int) -> tuple[Any, Any]:
    side = pixels // PATCH
    covers = np.zeros((len(things), pixels, pixels), np.float32)
    for thing, cover in zip(things, covers, strict=True):
        rows, columns, alpha = shape_patch(thing.shape, thing.start, thing.radius, pixels, 0.7)
        cover[rows, columns] = alpha
    for later in range(1, len(things)):  # later things are drawn over earlier ones
        covers[:later] *= 1.0 - covers[later]
    share = covers.reshape(len(things), side, PATCH, side, PATCH).mean((2, 4))
    patches = np.zeros((side, side, 4), np.float32)
    cells = np.zeros((side // 2, side // 2, len(KINDS) * len(HUES)), np.float32)
    if not things:
        return patches, cells
    best, most = share.argmax(0), share.max(0)
    kinds = np.array([1 + KINDS.index(thing.shape) for thing in things])
    hues = np.array([1 + HUES.index(thing.color) for thing in things])
    centers = np.array([thing.start for thing in things]) / SIDE
    patches[..., 0] = np.where(most >= 0.2, kinds[best], np.where(most > 0.06, IGNORE, 0))
    patches[..., 1] = np.where(most >= 0.2, hues[best], np.where(most > 0.06, IGNORE, 0))
    patches[..., 2:] = centers[best]
    block = share.reshape(len(things), side // 2, 2, side // 2, 2).mean((2, 4))
    for thing, kind, hue in zip(block, kinds, hues, strict=True):
        index = (kind - 1) * len(HUES) + hue - 1
        marked = np.where(thing >= 0.12, 1.0, np.where(thing > 0.04, -1.0, 0.0))
        old = cells[..., index]
        cells[..., index] = np.where((old == 1) | (marked == 1), 1.0, np.minimum(old, marked))
    return patches, cells


class Heads(nn.Module):
    """The throw-away heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, 1 + len(KINDS) + 1 + len(HUES) + 4)
        self.cell = nn.Linear(width, len(KINDS) * len(HUES))


def loss(hidden: Tensor, heads: Heads, patches: Tensor, cells: Tensor) -> tuple[Tensor, Any]:
    """hidden [n, s*s, d], patches [n, s, s, 4], cells [n, s/2, s/2, 30]."""
    n, side = patches.shape[:2]
    out = heads.patch(hidden).float().view(n * side * side, -1)
    kind, hue, center, own = out.split([1 + len(KINDS), 1 + len(HUES), 2, 2], 1)
    labels = patches.view(-1, 4)
    kinds, hues = labels[:, 0].long(), labels[:, 1].long()
    kind_weight = torch.tensor([0.15] + [1.0] * len(KINDS))
    hue_weight = torch.tensor([0.3] + [1.0] * len(HUES))
    shown = kinds > 0
    axis = (torch.arange(side) + 0.5) / side
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1)
    places = places.view(1, -1, 2).expand(n, -1, -1).reshape(-1, 2)
    blocks = hidden.view(n, side // 2, 2, side // 2, 2, -1).mean((2, 4))
    logits = heads.cell(blocks).float()
    known = cells >= 0
    value = functional.cross_entropy(kind, kinds, kind_weight, ignore_index=IGNORE)
    value = value + functional.cross_entropy(hue, hues, hue_weight, ignore_index=IGNORE)
    value = value + 2 * functional.l1_loss(center[shown], labels[shown, 2:])
    value = value + 2 * functional.l1_loss(own, places)
    value = value + 7.5 * functional.binary_cross_entropy_with_logits(logits[known], cells[known])
    with torch.no_grad():
        said, true = (logits > 0)[known], cells[known] > 0
        figures = {
            "kind": float((kind.argmax(1) == kinds)[shown].float().mean()),
            "hue": float((hue.argmax(1) == hues)[shown].float().mean()),
            "centre": float((center - labels[:, 2:])[shown].norm(dim=1).mean() * SIDE),
            "f1": float(2 * (said & true).sum() / (said.sum() + true.sum()).clamp(min=1)),
            "loss": float(value.detach()),
        }
    return value, figures


def schedule(step: int, plan: Plan) -> float:
    """Warm-up, constant, then cosine to 3 %."""
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    start = plan.flat * plan.steps
    part = min(max((step - start) / (plan.steps - start), 0.0), 1.0)
    return plan.rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * part)))


def grow(state: dict[str, Tensor], pixels: int) -> dict[str, Tensor]:
    """The same weights for larger frames: the position table is interpolated (bicubic)."""
    name = "embeddings.position_embedding.weight"
    table = state[name]
    old, new = math.isqrt(len(table)), pixels // PATCH
    grid = table.T.reshape(1, -1, old, old)
    grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    ids = "embeddings.position_ids"
    grown = {key: value for key, value in state.items() if key != ids}
    return {**grown, name: grid.reshape(-1, new * new).T.contiguous()}


def train(rank: int, ranks: int, folder: Path, stage: int) -> None:
    """One stage on one rank; continues from the folder's checkpoint when there is one."""
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    plan = STAGES[stage]
    torch.manual_seed(stage)
    model, heads = tower(plan.pixels), Heads(128)
    if stage:
        before = torch.load(folder / f"vision-{STAGES[stage - 1].pixels}.pt")
        model.load_state_dict(grow(before["tower"], plan.pixels), strict=False)
        heads.load_state_dict(before["heads"])
    matrices = [p for p in model.encoder.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    unused = {id(p) for p in model.post_layernorm.parameters()}
    others = [p for p in model.parameters() if id(p) not in chosen | unused]
    optimizer = Optimizer(
        matrices, [*others, *heads.parameters()], rank=rank, ranks=ranks, decay=0.02
    )
    path, own = folder / f"vision-{plan.pixels}.pt", folder / f"vision-{plan.pixels}-{rank}.pt"
    first = 0
    if path.exists():
        saved = torch.load(path)
        first = saved["step"]
        model.load_state_dict(saved["tower"])
        heads.load_state_dict(saved["heads"])
        optimizer.load_state_dict(torch.load(own))
    began = time.time()
    smooth: dict[str, float] = {}
    for step in range(first, plan.steps):
        rng = np.random.default_rng((1, stage, step, rank))
        drawn = [draw(rng, plan.pixels) for _ in range(plan.batch // ranks)]
        frames = normalise(torch.from_numpy(np.stack([frame for frame, _ in drawn])))
        patches = torch.from_numpy(np.stack([labels[0] for _, labels in drawn]))
        cells = torch.from_numpy(np.stack([labels[1] for _, labels in drawn]))
        with torch.autocast("cpu", torch.bfloat16):
            value, figures = loss(features(model, frames), heads, patches, cells)
        value.backward()
        norm = optimizer.step(schedule(step, plan))
        for name, figure in figures.items():
            smooth[name] = smooth.get(name, figure) * 0.95 + figure * 0.05
        last = step + 1 == plan.steps
        if step % 25 == 0 or last:
            means = {name: v / ranks for name, v in total(smooth).items()}
            text = " ".join(f"{name} {v:.3f}" for name, v in means.items())
            spent = time.time() - began
            cpu = time.process_time()
            log.info(
                "%d px step %d %s norm %.2f s %.0f cpu %.0f",
                plan.pixels,
                step,
                text,
                norm,
                spent,
                cpu * ranks,
            )
        if step % 200 == 199 or last:
            save(optimizer.state_dict(), own)
            if rank == 0:
                state = {"tower": model.state_dict(), "heads": heads.state_dict()}
                save({**state, "step": step + 1}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    for stage in range(len(STAGES)):
        launch(train, options.ranks, options.folder, stage)


if __name__ == "__main__":
    main()
