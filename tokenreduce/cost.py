"""What a prefill costs in floating-point operations and cache bytes, from counts alone.

The count of AIM (arXiv 2412.03248, section 4): a multiplication and an addition are two
operations, attention is charged for all n x n pairs although half of them lie in the future, and
element-wise work is counted beside the matrix products. Every count of visual tokens is charged to
the layer that really works on it. Imports no torch and knows neither tensors nor methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from tokenreduce import result
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec
from tokenreduce.schedule import Full, Schedule
from tokenreduce.work import NOTHING, SOFTMAX, Cost

QWEN_POINTWISE = 17
"""Element-wise operations per token and channel of a layer: two norms of 7, two residual sums and
an activation, as the paper counts them for Qwen2."""

VICUNA_POINTWISE = 18
"""The same for the Vicuna of LLaVA-1.5, whose activation the paper counts twice."""

_ATTENTION_POINTWISE = 8
"""Of these, the norm and the sum on the attention's side of a layer; the rest is the MLP's."""


@dataclass(frozen=True)
class PrefillCost:
    """One prefill, part by part.

    vision    tower and projector, over all encoded frames, charged where tokens leave inside it
    llm       the language model, charged where the reduction acts
    overhead  what the reduction itself computes: importance scores and merging
    kv_bytes  of the cache that the prefill leaves behind
    """

    vision: Cost
    llm: Cost
    overhead: Cost
    kv_bytes: int


@dataclass(frozen=True)
class Reused:
    """What of a prompt was not computed again: its first `positions`, in the first `layers`."""

    layers: int = 0
    positions: int = 0


AFRESH = Reused()


@dataclass(frozen=True)
class Through:
    """Frames on their way through the vision tower, all losing equally many patches.

    per_layer  patches of one frame that each layer attends to; class tokens are not among them
    left       patches of one frame that leave the last layer and go through the projector
    """

    frames: int
    per_layer: tuple[int, ...]
    left: int

    @classmethod
    def of(cls, vision: VisionSpec, frames: int, schedule: Schedule) -> Through:
        """With tokens leaving between the layers as `schedule` says; `Full` for a whole tower."""
        depth, patches = vision.layers, vision.patches
        left = schedule.kept(depth - 1, depth, patches)
        return cls(frames, acting(schedule, depth, patches), left)


def summed(costs: Sequence[Cost]) -> Cost:
    return reduce(add, costs, Cost())


def layer_cost(
    text: TextSpec,
    tokens: int,
    pointwise: int = QWEN_POINTWISE,
    left: int | None = None,
    cached: int = 0,
) -> Cost:
    """One decoder layer over `tokens` positions, visual and text together.

    With d = heads x head width, as in every model supported so far, this is
    2n(2 d^2 + 2 d d_kv + 3 d m) + 4 n^2 d in products and 5 h n^2 + `pointwise` d n beside them.

    left: positions the MLP works on, where some leave between attention and MLP, as in the
    official codes of ToMe and FrameFusion; here they leave after the layer, and it is `tokens`.
    cached: positions of which only keys and values are used, and those are there already.
    """
    n, width = tokens - cached, text.width
    after = n if left is None else left - cached
    queries = text.heads * text.head_width
    attention = 2 * width * queries + 2 * width * text.kv_width
    mlp = 3 * width * text.mlp_width
    beside = _ATTENTION_POINTWISE * n + (pointwise - _ATTENTION_POINTWISE) * after
    return Cost(
        matmul=2 * n * attention + 2 * after * mlp + 4 * n * tokens * queries,
        elementwise=SOFTMAX * text.heads * n * tokens + beside * width,
    )


def llm_cost(
    text: TextSpec,
    per_layer: Sequence[int],
    text_tokens: int,
    pointwise: int = QWEN_POINTWISE,
    reused: Reused = AFRESH,
) -> Cost:
    """The language model's prefill. per_layer: visual tokens each layer works on.

    The output layer is charged width x vocabulary once, as the paper does; only the last position
    goes through it. Raises ValueError unless per_layer has one count for each layer.
    """
    _check_depth(text, per_layer)
    layers = [
        layer_cost(
            text,
            visual + text_tokens,
            pointwise,
            cached=reused.positions if layer < reused.layers else 0,
        )
        for layer, visual in enumerate(per_layer)
    ]
    return summed(layers) + Cost(matmul=text.width * text.vocab)


def acting(schedule: Schedule, depth: int, visual: int) -> tuple[int, ...]:
    """Visual tokens each of `depth` layers works on: all in the first, then what left the last."""
    return (visual, *(schedule.kept(layer, depth, visual) for layer in range(depth - 1)))


def as_paper_charges(schedule: Schedule, depth: int, visual: int) -> tuple[int, ...]:
    """The paper's own convention: a layer is charged for what leaves it, one layer too early.

    14.76 T instead of the 15.53 T that its mask would save; here only to compare with the paper.
    """
    return tuple(schedule.kept(layer, depth, visual) for layer in range(depth))


def tower_cost(vision: VisionSpec, per_layer: Sequence[int] | None = None) -> Cost:
    """The vision tower over one frame: patch embedding, then layers with a plain two-layer MLP.

    per_layer: patches each layer attends to, all of them by default; class tokens come on top.
    Raises ValueError unless it has one count for each layer.
    """
    counts = [vision.patches] * vision.layers if per_layer is None else per_layer
    _check_depth(vision, counts)
    embedding = Cost(matmul=2 * vision.patches * 3 * vision.patch_size**2 * vision.width)
    return summed([_tower_layer_cost(vision, n + vision.classes) for n in counts]) + embedding


def _tower_layer_cost(vision: VisionSpec, tokens: int) -> Cost:
    n, width = tokens, vision.width
    weights = 4 * width * width + 2 * width * vision.mlp_width
    return Cost(
        matmul=2 * n * weights + 4 * n * n * width,
        elementwise=SOFTMAX * vision.heads * n * n + QWEN_POINTWISE * width * n,
    )


def projector_cost(vision: VisionSpec, text: TextSpec, patches: int | None = None) -> Cost:
    """The two-layer projector over what leaves the tower of one frame, before pooling.

    patches: that many, all of them by default; class tokens do not go through it.
    """
    n = vision.patches if patches is None else patches
    return Cost(
        matmul=2 * n * (vision.width * text.width + text.width**2), elementwise=n * text.width
    )


def vision_cost(spec: ModelSpec, parts: Sequence[Through]) -> Cost:
    """Tower and projector over the frames of all `parts`. Raises ValueError as `tower_cost`."""
    vision, text = spec.vision, spec.text
    return summed(
        [
            (tower_cost(vision, part.per_layer) + projector_cost(vision, text, part.left))
            * part.frames
            for part in parts
        ]
    )


def kv_bytes(
    text: TextSpec, per_layer: Sequence[int], text_tokens: int, bytes_per_element: int = 2
) -> int:
    """Bytes of keys and values after the prefill: layer i caches what it worked on."""
    _check_depth(text, per_layer)
    positions = sum(visual + text_tokens for visual in per_layer)
    return 2 * positions * text.kv_width * bytes_per_element


def prefill_cost(
    spec: ModelSpec,
    *,
    frames: int,
    visual_per_layer: Sequence[int],
    text_tokens: int,
    within: Sequence[Through] = (),
    overhead: Cost = NOTHING,
    kv_bytes_per_element: int = 2,
    reused: Reused = AFRESH,
) -> PrefillCost:
    """Everything from the frames to the first logits.

    frames    that went through the tower
    within    the same frames, where tokens left inside it
    overhead  what the reduction itself computes, see `tokenreduce.overhead`

    Raises ValueError if counts do not match a depth, or `within` is of another number of frames.
    """
    text, parts = spec.text, within or [Through.of(spec.vision, frames, Full())]
    if sum(part.frames for part in parts) != frames:
        raise ValueError(f"{sum(part.frames for part in parts)} frames went through, not {frames}")
    return PrefillCost(
        vision=vision_cost(spec, parts),
        llm=llm_cost(text, visual_per_layer, text_tokens, reused=reused),
        overhead=overhead,
        kv_bytes=kv_bytes(text, visual_per_layer, text_tokens, kv_bytes_per_element),
    )


def flops(
    spec: ModelSpec,
    frames_encoded: int,
    raw_visual: int,
    per_layer: Sequence[int],
    text_tokens: int,
    *,
    within: Sequence[Through] = (),
    overhead: Cost = NOTHING,
    reused: Reused = AFRESH,
) -> result.Flops:
    """The `flops` of an answer. raw_visual: tokens that an unreduced model would have read.

    The reduction's own work stands apart and counts against both ratios. The unreduced model
    encodes the same frames, all of each: what leaves inside the tower counts for ratio_total.
    reused: of an earlier question's prefill; the unreduced model begins afresh.
    Raises ValueError as `prefill_cost`.
    """
    cost = prefill_cost(
        spec,
        frames=frames_encoded,
        visual_per_layer=per_layer,
        text_tokens=text_tokens,
        within=within,
        overhead=overhead,
        reused=reused,
    )
    unreduced = llm_cost(spec.text, [raw_visual] * spec.text.layers, text_tokens).total
    whole = vision_cost(spec, [Through.of(spec.vision, frames_encoded, Full())]).total
    vision, spent = cost.vision.total, cost.llm.total + overhead.total
    return result.Flops(
        vision=float(vision),
        llm=float(cost.llm.total),
        llm_unreduced=float(unreduced),
        ratio_llm=unreduced / spent,
        ratio_total=(whole + unreduced) / (vision + spent),
        overhead=float(overhead.total),
    )


def _check_depth(model: TextSpec | VisionSpec, per_layer: Sequence[int]) -> None:
    if len(per_layer) != model.layers:
        raise ValueError(f"{len(per_layer)} counts for a model of {model.layers} layers")
