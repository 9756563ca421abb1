"""What a reduction itself computes, from the counts it goes through; no tensors.

Each method says what one round of it computes (`Method.work`); here the rounds, rows and layers of
a whole run are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from tokenreduce.budget import Layout, NewlineKeep, allot
from tokenreduce.cost import Through
from tokenreduce.engine.types import Prune
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.models.spec import TextSpec, VisionSpec
from tokenreduce.paradigm import Method
from tokenreduce.work import SOFTMAX, Cost, Sizes


def before_llm(
    method: Method | None,
    spec: tuple[VisionSpec, TextSpec],
    layout: Layout,
    budget: int,
    rule: NewlineKeep = "share",
    site: Literal["frames", "clip"] = "frames",
) -> Cost:
    """Reducing the frames of `layout` to `budget` tokens, and what the encoder has to show for it.

    Raises ValueError if budget is below 1.
    """
    if method is None or budget >= layout.available:
        return Cost()
    vision, text = spec
    cost = shown(method, vision) * layout.frames
    head_width = vision.width // vision.heads
    n, metric = layout.rows * layout.columns, head_width if "keys" in method.needs else text.width
    # No attention of this site's own, so length 0: what the encoder showed is in `cost`.
    whole = Sizes(
        layout.frames,
        n,
        text.width,
        metric,
        vision.heads,
        head_width,
        has_class=vision.classes > 0,
    )
    shares = allot(layout, budget, rule).shares
    if site == "clip":
        kept = sum(share.features for share in shares)
        clip = replace(whole, rows=1, n=whole.rows * whole.n, frames=layout.frames)
        return cost + rounds(method, clip, kept)
    for share in shares:
        frames = share.stop - share.start
        cost += rounds(method, replace(whole, rows=frames), share.features)
        if frames > 1:  # a run of frames, by now of one token each, becomes one token
            joining = AimMerge() if method.needs else method
            cost += rounds(joining, Sizes(1, frames, text.width), 1)
    return cost


def rounds(method: Method, sizes: Sizes, keep: int) -> Cost:
    """All rounds from sizes.n to `keep`."""
    cost = Cost()
    if keep < sizes.n:
        for before, after in pairwise([sizes.n, *method.rounds(sizes.n, keep)]):
            cost += method.work(replace(sizes, n=before), after)
    return cost


def shown(method: Method, vision: VisionSpec) -> Cost:
    """What the method needs of the encoder's last layer for one frame, made once more: queries and
    keys, then rows of attention. Pooling it is not counted, as the features' is not."""
    if not method.needs:
        return Cost()
    n = vision.patches
    length = n + vision.classes
    cost = _queries_and_keys(vision, length)
    rows = n if "attention" in method.needs else 0
    if "salience" in method.needs:
        rows += 1 if vision.classes else length
    pairs = rows * length
    return cost + Cost(2 * pairs * vision.width, SOFTMAX * pairs * vision.heads)


def _queries_and_keys(vision: VisionSpec, tokens: int) -> Cost:
    return Cost(4 * tokens * vision.width**2)


def inside_encoder(prunes: Sequence[Prune], vision: VisionSpec, part: Through) -> Cost:
    """Choosing what leaves each layer of the tower, for all frames of `part`.

    A layer shows its queries and keys only if some of its tokens go, as the encoder does it. The
    schedules are those that led to `part`, of exact counts (`engine.encoder.ToCount`).
    """
    cost, head_width = Cost(), vision.width // vision.heads
    for layer, attended in enumerate(part.per_layer):
        left = attended
        for prune in prunes:
            keep = prune.schedule.kept(layer, vision.layers, vision.patches)
            if keep >= left:
                continue
            if left == attended:
                cost += _queries_and_keys(vision, attended + vision.classes) * part.frames
            length = left + vision.classes
            sizes = Sizes(
                part.frames, left, vision.width, head_width, vision.heads, head_width, length
            )
            cost += rounds(prune.method, sizes, keep)
            left = keep
    return cost


def inside_llm(
    prunes: Sequence[Prune], text: TextSpec, per_layer: Sequence[int], text_tokens: int
) -> Cost:
    """Choosing what leaves each layer. per_layer: visual tokens each layer attended to.

    A layer is scored only if some of its tokens go, as the engine does it.
    """
    cost = Cost()
    for layer, attended in enumerate(per_layer):
        left = attended
        for prune in prunes:
            keep = prune.schedule.kept(layer, len(per_layer), per_layer[0])
            if keep < left:
                length = left + text_tokens
                sizes = Sizes(1, left, text.width, text.width, text.heads, text.head_width, length)
                cost += prune.method.work(sizes, keep)
                left = keep
    return cost
