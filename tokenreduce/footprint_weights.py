"""Bytes of a model's weights from its sizes, quantised or not; imports no torch."""

from __future__ import annotations

from math import ceil

from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec

_BLOCK = 64  # numbers that share a scale in NF4, of one byte once it is quantised as well
_SECOND = 256  # scales that share one of four bytes
_TABLES_BYTES = 64 + 1024 + 4  # each matrix has its own tables of 16 and 256 float32, and an offset


def weights(spec: ModelSpec, quantize: str, element: int) -> int:
    """All of the model. element: bytes of one number of what is not quantised: embeddings, output
    layer, vision tower, projector, norms and biases."""
    text = spec.text
    matrices = sum(quantised(count, rows, quantize, element) for count, rows in matrices_of(text))
    biases = text.heads * text.head_width + 2 * text.kv_width
    layer = matrices + element * (2 * text.width + biases)
    tables = text.vocab * text.width * (1 if text.tied else 2)
    newline = 0 if spec.newline == "no_token" else text.width
    rest = tables + text.width + newline + vision_numbers(spec.vision) + projector_numbers(spec)
    return text.layers * layer + element * rest


def quantised(count: int, rows: int, quantize: str, element: int) -> int:
    """Of one matrix of `count` numbers in `rows` rows."""
    if quantize == "nf4":
        blocks = ceil(count / _BLOCK)
        return ceil(count / 2) + blocks + 4 * ceil(blocks / _SECOND) + _TABLES_BYTES
    if quantize == "int8":
        return count + 4 * rows
    return count * element


def matrices_of(text: TextSpec) -> tuple[tuple[int, int], ...]:
    """(numbers, rows) of each matrix of one decoder layer."""
    d, queries, m = text.width, text.heads * text.head_width, text.mlp_width
    return (
        (d * queries, queries),
        (d * text.kv_width, text.kv_width),
        (d * text.kv_width, text.kv_width),
        (queries * d, d),
        (d * m, m),
        (d * m, m),
        (m * d, d),
    )


def widest(text: TextSpec, element: int) -> int:
    """The largest matrix of a layer, written out."""
    return element * max(count for count, _ in matrices_of(text))


def vision_numbers(vision: VisionSpec) -> int:
    """Of the tower: embeddings, layers with two norms and biases throughout, the norms around."""
    w, m = vision.width, vision.mlp_width
    layer = 4 * (w * w + w) + 2 * w * m + m + w + 4 * w
    patch = 3 * vision.patch_size**2 * w
    beside = 3 * w if vision.classes else w  # a class token and a norm before, or a bias
    return vision.layers * layer + patch + beside + (vision.patches + vision.classes) * w + 2 * w


def projector_numbers(spec: ModelSpec) -> int:
    """Of the two-layer projector."""
    d = spec.text.width
    return spec.vision.width * d + d + d * d + d
