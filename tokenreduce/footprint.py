"""How much device memory a run takes, part by part and stage by stage, from counts alone.

Follows what the code keeps alive while it computes: docs/fit.md has the arithmetic and says how it
was checked. Predicts bytes of tensors, which is what torch's allocator calls allocated; what the
driver takes beside that is a line of its own. Imports no torch, knows no device and no video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from tokenreduce.cost import acting
from tokenreduce.footprint_weights import weights, widest
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec

if TYPE_CHECKING:
    from tokenreduce.planned import Plan

DRIVER_BYTES = 512 << 20
"""A CUDA context with the kernels of torch, cuBLAS and bitsandbytes: outside torch's allocator and
of a size that differs by driver. An assumption, not measured here."""

WORKSPACE_BYTES = 32 << 20
"""cuBLAS's, which torch allocates once: 32 MiB on a Hopper, 8 on other cards."""

RESIDENT_TOKENS = 16_384
"""`reducer.RESIDENT`, which cannot be imported without torch; a test compares them."""

_BLOCKWISE = "AimPrune"  # the one method whose scores are made block by block; imports torch
_GROUP = 16  # frames that go through a reduction together (`holding.AT_ONCE`)
_ROWS = 128  # rows of attention scored at once, at most (`tokens.Attention.rows_within`)
_COPIES = 4.5  # of what is held, at the widest moment of a reduction: measured, an upper bound
_TOKEN_BYTES = 12  # of one token's size and place
_INDEX_BYTES = 8

StageName = Literal["load", "encode", "reduce", "prefill", "decode"]
PartName = Literal[
    "weights",
    "workspace",
    "vision",
    "visual tokens",
    "merging",
    "prompt",
    "LLM",
    "scoring",
    "dequantised",
    "KV cache",
    "output",
]


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


@dataclass(frozen=True)
class _Run:
    """The counts of one run. element: bytes of one number in the model's dtype."""

    spec: ModelSpec
    frames: int
    per_layer: tuple[int, ...]
    text_tokens: int
    new_tokens: int
    quantize: str
    element: int
    batch: int
    chunk: int
    held: int
    blockwise: bool
    needs: frozenset[str]
    cuda: bool

    @property
    def visual(self) -> int:
        return self.per_layer[0]

    @property
    def length(self) -> int:
        return self.visual + self.text_tokens

    @property
    def token_bytes(self) -> int:
        """Of one visual token's features."""
        return self.spec.text.width * self.element


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
) -> Footprint:
    """What a run keeps on its device.

    frames       that go through the tower, `tower_batch` at a time, handed on `chunk` at a time
    raw_visual   tokens before any reduction; per_layer: visual tokens each LLM layer works on
    text_tokens  of the prompt that are not visual      max_new_tokens  of the answer
    quantize     "nf4", "int8" or "none", of the LLM's matrices; dtype_bytes: of all else
    held_tokens  visual tokens held while frames come; by default as `reducer.Reducer` holds them
    blockwise    what leaves inside the LLM is chosen by AIM's importance; else by rows of attention
    needs        what a reduction asks of the tower's last layer
    cuda         a CUDA device, with a driver, a workspace and larger blocks; else a CPU

    Raises ValueError unless per_layer has one count for each layer.
    """
    if len(per_layer) != spec.text.layers:
        raise ValueError(f"{len(per_layer)} counts for a model of {spec.text.layers} layers")
    if held_tokens is None:
        held_tokens = min(raw_visual, max(RESIDENT_TOKENS, 2 * per_layer[0]))
    run = _Run(
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
    )
    base: list[tuple[PartName, int]] = [("weights", weights(spec, quantize, dtype_bytes))]
    if cuda:
        base.append(("workspace", WORKSPACE_BYTES))
    stages: list[tuple[StageName, list[tuple[PartName, int]]]] = [
        ("load", [("dequantised", 0 if quantize == "none" else widest(spec.text, dtype_bytes))]),
        ("encode", _encode(run)),
        ("reduce", _reduce(run)),
        ("prefill", _prefill(run)),
        ("decode", _decode(run)),
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
) -> Footprint:
    """Of a plan settled for its video (`plan.of_video`) or its pictures.

    squares: pictures with all their tiles, which go through the tower. Raises SettingError as
    `plan.prunes_for`.
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
    )


def layers_of(plan: Plan) -> tuple[int, ...]:
    """Visual tokens each layer of the LLM will work on."""
    visual = min(plan.budget_for(plan.raw), plan.raw)
    counts = [visual] * plan.depth
    for prune in plan.prunes_for(visual):
        own = acting(prune.schedule, plan.depth, visual)
        counts = [min(pair) for pair in zip(counts, own, strict=True)]
    return tuple(accumulate(counts, min))


def _encode(run: _Run) -> list[tuple[PartName, int]]:
    """One batch in the tower, while reduced and waiting tokens of the frames before are held."""
    waiting = min(run.frames, _GROUP + run.chunk) * run.spec.side**2
    held = min(run.held + waiting, run.frames * run.spec.side**2)
    return [
        ("vision", vision_bytes(run.spec, run.batch, run.element, run.needs, cuda=run.cuda)),
        ("visual tokens", held * (run.token_bytes + _TOKEN_BYTES)),
    ]


def vision_bytes(
    spec: ModelSpec,
    batch: int,
    element: int,
    needs: frozenset[str] = frozenset(),
    *,
    cuda: bool = True,
) -> int:
    """Activations of the tower and the projector over `batch` frames, at the widest of: looking up
    pixel values, a layer's MLP, the projector, and pooling."""
    vision, patches = spec.vision, spec.vision.patches
    area = batch * vision.image_size**2
    # Three float32 planes and their stack; on another device than the frames', their bytes too.
    table = area * (24 + (3 if cuda else 0))
    pixels = 3 * area * element
    x = batch * (patches + vision.classes) * vision.width * element
    layer = pixels + 3 * x + max(2 * x * vision.mlp_width // vision.width, 4 * x)
    y = batch * patches * spec.text.width * element
    pooled = batch * spec.side**2 * spec.text.width * element
    projected = pixels + 2 * x + 2 * y + (0 if spec.pool == "none" else 2 * pooled)
    shown = pixels + 2 * x + _evidence(vision, batch, x, needs)
    return max(table, layer, projected, shown)


def _evidence(vision: VisionSpec, batch: int, x: int, needs: frozenset[str]) -> int:
    """Queries and keys made once more, and a block of rows of attention in float32."""
    if not needs:
        return 0
    n = vision.patches + vision.classes
    keys = 4 * batch * n * vision.width if "keys" in needs else 0
    rows = 2 * 4 * batch * vision.heads * min(_ROWS, n) * n if needs - {"keys"} else 0
    pairs = 2 * 4 * batch * n * n if "attention" in needs else 0
    return 3 * x + keys + rows + pairs


def _reduce(run: _Run) -> list[tuple[PartName, int]]:
    """The widest moment of bringing what is held to fewer tokens; an upper bound. On a CPU torch
    writes out the index of a gather, of 8 bytes an element."""
    copies = _COPIES + (0 if run.cuda else _INDEX_BYTES / run.element)
    held = min(run.held + _GROUP * run.spec.side**2, run.frames * run.spec.side**2)
    whole = held * (run.token_bytes + _TOKEN_BYTES)
    return [("visual tokens", whole), ("merging", int(whole * (copies - 1)))]


def _prefill(run: _Run) -> list[tuple[PartName, int]]:
    moments = list(_moments(run))
    most = max(moments, key=lambda parts: sum(size for _, size in parts))
    # The prompt's embeddings, and the copy of them that `generate` makes.
    return [*_prompt(run, copies=2), *most]


def _prompt(run: _Run, copies: int) -> list[tuple[PartName, int]]:
    visual = run.visual * (run.token_bytes + 2 * _TOKEN_BYTES)
    masks = 3 * _INDEX_BYTES * run.length
    return [
        ("visual tokens", visual),
        ("prompt", copies * run.length * run.token_bytes + masks),
    ]


def _moments(run: _Run) -> Iterator[list[tuple[PartName, int]]]:
    """Of each layer: its attention, a choice made meanwhile, and its MLP."""
    text, kv = run.spec.text, 0
    for layer, visual in enumerate(run.per_layer):
        length = visual + run.text_tokens
        kv += 2 * text.kv_width * length * run.element
        rope = 2 * text.head_width * length * run.element
        x = length * run.token_bytes
        queries = length * text.heads * text.head_width * run.element
        # The layer's input, the normed input, the queries while they are turned.
        yield [("LLM", 2 * x + 4 * queries + rope), ("KV cache", kv)]
        following = run.per_layer[layer + 1 : layer + 2]
        if following and following[0] < visual:
            scored = _scoring(run, text, length) + visual * run.token_bytes
            yield [("LLM", 2 * x + queries + rope), ("scoring", scored), ("KV cache", kv)]
        for activations, matrix in _mlp(run, length):
            yield [
                ("LLM", 3 * x + rope + activations),
                ("dequantised", matrix),
                ("KV cache", kv),
            ]


def _mlp(run: _Run, length: int) -> Iterator[tuple[int, int]]:
    """(activations, a matrix written out) of the gated MLP's two widest moments: the second of its
    products with the activation beside it, and both with what they make."""
    one = length * run.spec.text.mlp_width * run.element
    yield 3 * one, 0
    if run.quantize == "nf4":
        yield 2 * one, widest(run.spec.text, run.element)
    elif run.quantize == "int8":  # an int32 product, then its values
        x8 = length * run.spec.text.width
        yield 2 * one + 4 * length * run.spec.text.mlp_width + x8, 0


def _scoring(run: _Run, text: TextSpec, length: int) -> int:
    """float32 buffers of rows of attention over all heads, and what accumulates over positions."""
    row = 4 * text.heads * length
    keys = 4 * text.kv_width * length
    if not run.blockwise:
        rows = min(_ROWS, max(1, run.text_tokens))
        return rows * (2 * row + 4 * length) + keys
    block = (64 if run.cuda else 4) << 20
    rows = min(length, max(16, min(block // row, _ROWS)))
    diagonal = 4 * text.heads * rows * rows
    return 2 * rows * row + keys + diagonal + 3 * 6 * row


def _decode(run: _Run) -> list[tuple[PartName, int]]:
    """The last token: the cache with free slots, and one layer of it twice while it grows."""
    text = run.spec.text
    one = 2 * text.kv_width * run.element
    positions = [visual + run.text_tokens + run.new_tokens for visual in run.per_layer]
    return [
        *_prompt(run, copies=1),
        ("KV cache", one * (sum(positions) + max(positions))),
        ("output", text.vocab * (run.element + 8)),
    ]
