"""What is alive at the fullest moment of each stage of a run, in bytes by part, from counts alone.

Each function follows the code it names: what that keeps while it computes. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tokenreduce.footprint_weights import widest
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec

STEM_BYTES = 1 << 30
"""`engine.stem.Stem.limit_bytes`; the same test compares it."""

_GROUP = 16  # frames that go through a reduction together (`holding.AT_ONCE`)
_ROWS = 128  # rows of attention scored at once, at most (`tokens.Attention.rows_within`)
_COPIES = 4.5  # of what is held, at the widest moment of a reduction: measured, an upper bound
_TOKEN_BYTES = 12  # of one token's size and place
_INDEX_BYTES = 8
_PAIR_BYTES = 9  # of two tokens in one head: float32 scores, their softmax, and which are -inf
_COPIED_BYTES = 20  # of a number of the queries: float32 copies of them, keys, values, the result

PartName = Literal[
    "weights",
    "workspace",
    "vision",
    "visual tokens",
    "merging",
    "prompt",
    "LLM",
    "attention",
    "scoring",
    "dequantised",
    "KV cache",
    "output",
    "questions before",
    "other files",
]


Parts = list[tuple[PartName, int]]


@dataclass(frozen=True)
class Run:
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
    kept: int
    written: bool

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


def encode(run: Run) -> Parts:
    """One batch in the tower, while reduced and waiting tokens of the frames before are held."""
    return [
        ("vision", _vision(run)),
        ("visual tokens", waiting(run)),
    ]


def _vision(run: Run) -> int:
    usual = vision_bytes(run.spec, run.batch, run.element, run.needs, cuda=run.cuda)
    if not run.written:
        return usual
    vision = run.spec.vision
    n, pixels = vision.patches + vision.classes, 3 * run.batch * vision.image_size**2 * run.element
    # Input, residual, norm, and the three products.
    beside = pixels + 5 * run.batch * n * vision.width * run.element
    return max(usual, beside + run.batch * written_bytes(vision.heads, n, vision.width))


def written_bytes(heads: int, length: int, width: int) -> int:
    """What torch's plain attention writes out, where it has no other for a card and a dtype of 16
    bits: all pairs of tokens of all heads in float32. width: of the queries of all heads."""
    return length * (_PAIR_BYTES * heads * length + _COPIED_BYTES * width)


def waiting(run: Run) -> int:
    """Bytes of the tokens of one video that has begun to be encoded."""
    unreduced = min(run.frames, _GROUP + run.chunk) * run.spec.side**2
    held = min(run.held + unreduced, run.frames * run.spec.side**2)
    return held * (run.token_bytes + _TOKEN_BYTES)


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


def reduce(run: Run) -> Parts:
    """The widest moment of bringing what is held to fewer tokens; an upper bound. On a CPU torch
    writes out the index of a gather, of 8 bytes an element."""
    copies = _COPIES + (0 if run.cuda else _INDEX_BYTES / run.element)
    held = min(run.held + _GROUP * run.spec.side**2, run.frames * run.spec.side**2)
    whole = held * (run.token_bytes + _TOKEN_BYTES)
    return [("visual tokens", whole), ("merging", int(whole * (copies - 1)))]


def prefill(run: Run) -> Parts:
    moments = list(_moments(run))
    most = max(moments, key=lambda parts: sum(size for _, size in parts))
    # The prompt's embeddings, and the copy of them that `generate` makes.
    return [*_prompt(run, copies=2), *most, ("questions before", run.kept)]


def _prompt(run: Run, copies: int) -> Parts:
    visual = run.visual * (run.token_bytes + 2 * _TOKEN_BYTES)
    masks = 3 * _INDEX_BYTES * run.length
    return [
        ("visual tokens", visual),
        ("prompt", copies * run.length * run.token_bytes + masks),
    ]


def stem(run: Run) -> int:
    """Keys and values of the layers up to the first choice, the prompt's embeddings, and what went
    into that layer, through it and out of it. Nothing where that is more than may be kept."""
    text, counts = run.spec.text, run.per_layer
    fork = next((i for i in range(len(counts) - 1) if counts[i + 1] < counts[i]), None)
    layers = len(counts) if fork is None else fork + 1
    queries = text.heads * text.head_width * run.element
    whole = run.length * (
        2 * text.kv_width * run.element * layers
        + run.token_bytes
        + (0 if fork is None else 2 * run.token_bytes + queries)
    )
    return whole if whole <= STEM_BYTES else 0


def _moments(run: Run) -> Iterator[Parts]:
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
        if run.written:
            pairs = written_bytes(text.heads, length, text.heads * text.head_width)
            pairs += 4 * length**2  # the causal mask
            yield [("LLM", 2 * x + queries + rope), ("attention", pairs), ("KV cache", kv)]
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


def _mlp(run: Run, length: int) -> Iterator[tuple[int, int]]:
    """(activations, a matrix written out) of the gated MLP's two widest moments: the second of its
    products with the activation beside it, and both with what they make."""
    one = length * run.spec.text.mlp_width * run.element
    yield 3 * one, 0
    if run.quantize == "nf4":
        yield 2 * one, widest(run.spec.text, run.element)
    elif run.quantize == "int8":  # an int32 product, then its values
        x8 = length * run.spec.text.width
        yield 2 * one + 4 * length * run.spec.text.mlp_width + x8, 0


def _scoring(run: Run, text: TextSpec, length: int) -> int:
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


def decode(run: Run) -> Parts:
    """The last token: the cache with free slots, and one layer of it twice while it grows."""
    text = run.spec.text
    one = 2 * text.kv_width * run.element
    positions = [visual + run.text_tokens + run.new_tokens for visual in run.per_layer]
    return [
        *_prompt(run, copies=1),
        ("KV cache", one * (sum(positions) + max(positions))),
        ("output", text.vocab * (run.element + 8)),
        ("questions before", run.kept),
    ]
