"""How much device memory a run takes, part by part and stage by stage, from counts alone.

Follows what the code keeps alive while it computes: docs/fit.md has the arithmetic and says how it
was checked. Predicts bytes of tensors, which is what torch's allocator calls allocated; what the
driver takes beside that is a line of its own. Imports no torch, knows no device and no video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from tokenreduce.cost import acting
from tokenreduce.footprint_stages import (
    PartName,
    Parts,
    Run,
    decode,
    encode,
    prefill,
    reduce,
    stem,
    waiting,
)
from tokenreduce.footprint_weights import weights, widest
from tokenreduce.models.spec import ModelSpec

if TYPE_CHECKING:
    from tokenreduce.planned import Plan

DRIVER_BYTES = 512 << 20
"""A CUDA context with the kernels of torch, cuBLAS and bitsandbytes: outside torch's allocator and
of a size that differs by driver. An assumption, not measured here."""

WORKSPACE_BYTES = 32 << 20
"""One of cuBLAS's: 32 MiB on a Hopper, 8 on other cards."""

WORKSPACES = 2
"""Torch keeps one for each stream that a thread multiplies on: its own, and the one that steps are
recorded on. Each thread of a batch that encodes another file has one of its own, counted too."""

RESIDENT_TOKENS = 16_384
"""`reducer.RESIDENT`, which cannot be imported without torch; a test compares them."""

_BLOCKWISE = "AimPrune"  # the one method whose scores are made block by block; imports torch

StageName = Literal["load", "encode", "reduce", "prefill", "decode"]


@dataclass(frozen=True)
class Stage:
    """What is alive at the fullest moment of one stage, in bytes by part."""

    name: StageName
    parts: tuple[tuple[PartName, int], ...]

    @property
    def total(self) -> int:
        return sum(size for _, size in self.parts)


@dataclass(frozen=True)
class Footprint:
    """driver_bytes: beside what torch allocates, 0 on a CPU."""

    stages: tuple[Stage, ...]
    driver_bytes: int

    @property
    def fullest(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def peak_bytes(self) -> int:
        """Of tensors; to be compared with torch.cuda.max_memory_allocated."""
        return self.fullest.total

    @property
    def card_bytes(self) -> int:
        """What a card must have free before anything is loaded."""
        return self.peak_bytes + self.driver_bytes

    def of(self, name: StageName) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def footprint(
    spec: ModelSpec,
    *,
    frames: int,
    raw_visual: int,
    per_layer: Sequence[int],
    text_tokens: int,
    max_new_tokens: int = 256,
    quantize: str = "none",
    dtype_bytes: int = 2,
    tower_batch: int = 16,
    chunk: int = 16,
    held_tokens: int | None = None,
    blockwise: bool = True,
    needs: frozenset[str] = frozenset(),
    cuda: bool = True,
    many: bool = False,
    beside: int = 0,
    written: bool = False,
) -> Footprint:
    """What a run keeps on its device.

    frames       that go through the tower, `tower_batch` at a time, handed on `chunk` at a time
    raw_visual   tokens before any reduction; per_layer: visual tokens each LLM layer works on
    text_tokens  of the prompt that are not visual      max_new_tokens  of the answer
    quantize     "nf4", "int8" or "none", of the LLM's matrices; dtype_bytes: of all else
    held_tokens  visual tokens held while frames come; by default as `reducer.Reducer` holds them
    blockwise    what leaves inside the LLM is chosen by AIM's importance; else by rows of attention
    needs        what a reduction asks of the tower's last layer
    cuda         a CUDA device, with a driver, workspaces and larger blocks; else a CPU
    many         several questions: what was read is kept for the next, up to STEM_BYTES
    beside       other files, like this one, whose tokens are held meanwhile: a batch prepares them.
                 On CUDA none of them goes through a stage of its own while this one does
    written      attention writes out all pairs of tokens (`models.device_check.writes_attention`)

    Raises ValueError unless per_layer has one count for each layer.
    """
    if len(per_layer) != spec.text.layers:
        raise ValueError(f"{len(per_layer)} counts for a model of {spec.text.layers} layers")
    if held_tokens is None:
        held_tokens = min(raw_visual, max(RESIDENT_TOKENS, 2 * per_layer[0]))
    run = Run(
        spec,
        frames,
        tuple(per_layer),
        text_tokens,
        max_new_tokens,
        quantize,
        dtype_bytes,
        max(1, min(tower_batch, chunk, frames)),
        chunk,
        held_tokens,
        blockwise,
        needs,
        cuda,
        0,
        written,
    )
    run = replace(run, kept=stem(run) if many else 0)
    base: Parts = [("weights", weights(spec, quantize, dtype_bytes))]
    if cuda:
        base.append(("workspace", (WORKSPACES + beside) * WORKSPACE_BYTES))
    if beside:
        base.append(("other files", beside * waiting(run)))
    # Of the file that is asked about, between two of its questions.
    between: Parts = [("questions before", run.kept if beside else 0)]
    stages: list[tuple[StageName, Parts]] = [
        ("load", [("dequantised", 0 if quantize == "none" else widest(spec.text, dtype_bytes))]),
        ("encode", [*encode(run), *between]),
        ("reduce", [*reduce(run), *between]),
        ("prefill", prefill(run)),
        ("decode", decode(run)),
    ]
    return Footprint(
        tuple(Stage(name, (*base, *(p for p in parts if p[1]))) for name, parts in stages),
        DRIVER_BYTES if cuda else 0,
    )


def of_plan(
    spec: ModelSpec,
    plan: Plan,
    *,
    text_tokens: int,
    quantize: str = "none",
    dtype_bytes: int = 2,
    tower_batch: int = 16,
    cuda: bool = True,
    squares: int | None = None,
    many: bool = False,
    beside: int = 0,
    written: bool = False,
) -> Footprint:
    """Of a plan settled for its video (`plan.of_video`) or its pictures.

    squares: pictures with all their tiles, which go through the tower. many, beside,
    written: see `footprint`. Raises SettingError as `plan.prunes_for`.
    """
    counts = layers_of(plan)
    return footprint(
        spec,
        frames=squares or plan.frames,
        raw_visual=plan.raw,
        per_layer=counts,
        text_tokens=text_tokens,
        max_new_tokens=plan.sampling.max_new_tokens,
        quantize=quantize,
        dtype_bytes=dtype_bytes,
        tower_batch=tower_batch,
        held_tokens=(squares * spec.side**2) if squares else None,
        blockwise=all(type(prune.method).__name__ == _BLOCKWISE for prune in plan.prunes),
        needs=plan.needs,
        cuda=cuda,
        many=many,
        beside=beside,
        written=written,
    )


def layers_of(plan: Plan) -> tuple[int, ...]:
    """Visual tokens each layer of the LLM will work on."""
    visual = min(plan.budget_for(plan.raw), plan.raw)
    counts = [visual] * plan.depth
    for prune in plan.prunes_for(visual):
        own = acting(prune.schedule, plan.depth, visual)
        counts = [min(pair) for pair in zip(counts, own, strict=True)]
    return tuple(accumulate(counts, min))
