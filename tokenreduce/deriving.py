"""Fewer visual tokens of a video from more, where they are bit for bit what the video itself would
give. Knows neither caches nor models.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenreduce.budget import Layout, allot
from tokenreduce.holding import Held
from tokenreduce.plan import Plan
from tokenreduce.reducer import Reducer
from tokenreduce.seen import Evidence
from tokenreduce.tokens import Tokens
from tokenreduce.weaving import is_newline


def derivable(plan: Plan, layout: Layout, tokens: int, *, merged: bool) -> bool:
    """Whether `tokens` visual tokens of `layout` may lead to what the plan wants of it.

    merged: they were brought to that by the plan's own method, newline rule and seed; else they
    are all there are. A method that asks the encoder for more than features starts anew.
    """
    wanted = plan.budget_for(layout.available)
    if plan.merge is None or plan.merge.needs or wanted >= tokens:
        return False
    if not merged:
        return tokens == layout.available
    if plan.merge_site != "frames":
        return False
    each = _each(layout, tokens, plan)
    if each is None:
        return False
    raw = layout.rows * layout.columns
    shares = {share.features for share in allot(layout, wanted, plan.newlines).shares}
    return all(each in tuple(plan.merge.rounds(raw, keep)) and keep < each for keep in shares)


def derived(plan: Plan, layout: Layout, visual: Tokens, newline: Tensor | None) -> Tokens:
    """What the plan wants, of tokens that are `derivable`."""
    feature = ~is_newline(layout, visual.place[0])
    each = int(feature.sum()) // layout.frames
    shape = (layout.frames, each)
    place = _within(layout, visual.place[0][feature]).view(shape)
    tokens = Tokens(
        visual.x[0][feature].unflatten(0, shape), visual.size[0][feature].view(shape), place
    )
    frame = torch.arange(layout.frames, device=place.device)
    wanted = plan.budget_for(layout.available)
    reducer = Reducer(
        replace(layout, frames=1),
        wanted,
        plan.merge,
        newline,
        plan.newlines,
        plan.sampling.seed,
        plan.merge_site,
    )
    if each == layout.rows * layout.columns:
        reducer.add(tokens.x)
    else:
        reducer.resume(Held(tokens, tokens.x, Evidence(), frame))
    return reducer.finish()


def _each(layout: Layout, tokens: int, plan: Plan) -> int | None:
    """Features of a frame, if all frames have as many."""
    counts = {
        (share.stop - share.start, share.features)
        for share in allot(layout, tokens, plan.newlines).shares
    }
    if len(counts) != 1:
        return None
    ((length, each),) = counts
    return each if length == 1 else None


def _within(layout: Layout, place: Tensor) -> Tensor:
    """Places in a frame, newlines not counted."""
    within = place % layout.per_frame
    if layout.newline == "grid":
        return within // (layout.columns + 1) * layout.columns + within % (layout.columns + 1)
    return within
