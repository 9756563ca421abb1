"""Frames or pictures whose tokens leave inside the vision tower, to an exact budget over all.

What leaves there spares the tower the rest of its layers, but leaves no whole grid to pool: each
token is one patch, and where a checkpoint has newlines, one follows each frame. Knows no method
and no model's parts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenreduce.budget import Allotment, Layout, allot
from tokenreduce.errors import SettingError
from tokenreduce.models.base import VideoModel
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.vision import Within
from tokenreduce.tokens import Tokens
from tokenreduce.weaving import raw_places, weave


def patch_layout(spec: ModelSpec, frames: int) -> Layout:
    """Of frames whose patches are not pooled. A newline after each row would cost the rows that are
    left almost as much as it tells: one follows the frame."""
    return patches_of(spec, spec.layout(frames))


def patches_of(spec: ModelSpec, layout: Layout) -> Layout:
    """Of the frames or pictures of `layout` if no patch of theirs is pooled."""
    newline = "frame" if layout.newline == "grid" else layout.newline
    return Layout(layout.frames, spec.vision.side, spec.vision.side, newline)


def shares_of(layout: Layout, budget: int) -> Allotment:
    """What each frame of a layout of patches keeps of `budget`. Raises SettingError below one patch
    a frame: inside the tower frames do not see each other."""
    given = allot(layout, budget)
    if any(share.stop - share.start > 1 or share.features < 1 for share in given.shares):
        raise SettingError(
            f"a budget of {budget} for {layout.frames} frames: inside the vision encoder each "
            f"keeps at least one token: give a budget of {layout.frames + layout.trailing} or "
            "more, or fewer frames"
        )
    return given


def look_inside(
    model: VideoModel, pixels: Tensor, budget: int, within: Within, layout: Layout | None = None
) -> Tokens:
    """Frames, uint8 (f, S, S, 3), through the tower to one row of exactly min(budget, available)
    tokens, newlines included. within.keep is set from the budget, within.frames from the layout.

    layout: of all their patches, along which places count; by default `patch_layout`. Raises
    SettingError below one token a frame.
    """
    layout = layout or patch_layout(model.spec, pixels.shape[0])
    given = shares_of(layout, budget)
    groups: dict[int, list[int]] = {}
    for share in given.shares:
        groups.setdefault(share.features, []).append(share.start)
    done = []
    for keep, frames in groups.items():
        index = torch.tensor(frames)
        own = replace(within, keep=keep, frames=tuple(frames))
        tokens, _ = model.look_within(pixels[index], own, frozenset())
        frame = index.to(tokens.place.device).unsqueeze(1).expand_as(tokens.place)
        place = raw_places(layout, frame, tokens.place)
        done.append(replace(tokens, place=place).as_one_row())
    ends = [(share.start + 1) * layout.per_frame - 1 for share in given.shares if share.newlines]
    ends += [layout.available - 1] * given.trailing
    return weave(Tokens.cat(done).in_order(), ends, model.newline(), layout)
