"""Places in the raw sequence of a video, and newlines put where they stand; knows no method."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.tokens import Tokens


def raw_places(layout: Layout, frame: Tensor, place: Tensor) -> Tensor:
    """Place in a frame, newlines not counted, to place in the raw sequence of the video."""
    if layout.newline == "grid":
        place = place // layout.columns * (layout.columns + 1) + place % layout.columns
    return frame * layout.per_frame + place


def is_newline(layout: Layout, place: Tensor) -> Tensor:
    """bool, of raw places (n,): whether a newline embedding stands there."""
    within = place % layout.per_frame
    if layout.newline == "grid":
        return within % (layout.columns + 1) == layout.columns
    last = place == layout.frames * layout.per_frame  # of "one_token"
    return last | (within >= layout.rows * layout.columns)


def weave(kept: Tokens, ends: list[int], newline: Tensor | None, layout: Layout) -> Tokens:
    """`kept`, one row, and a newline embedding (d,) at each raw place of `ends`, in raster order.

    Raises ValueError if there are newlines to weave in and no embedding.
    """
    if not ends:
        return kept
    if newline is None:
        raise ValueError(f"a {layout.newline!r} layout needs the newline embedding")
    x, size, place = kept.x[0], kept.size[0], kept.place[0]
    x = torch.cat([x, newline.to(x).expand(len(ends), -1)])
    size = torch.cat([size, size.new_ones(len(ends))])
    place = torch.cat([place, torch.tensor(ends, device=place.device)])
    return Tokens(x.unsqueeze(0), size.unsqueeze(0), place.unsqueeze(0)).in_order()
