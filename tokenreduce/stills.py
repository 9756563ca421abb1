"""From pictures to the visual tokens the LLM will read: how they are laid out, looked at, reduced.

A model reads pictures as one or two parts, each a Layout like that of a video: most as so many
frames; LLaVA-OneVision one picture as a whole and then in tiles, without the pooling of videos.
Knows nothing about files and questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenreduce.budget import Layout, NewlineKeep, in_proportion
from tokenreduce.errors import InputError, SettingError
from tokenreduce.models.base import VideoModel
from tokenreduce.models.spec import ModelSpec
from tokenreduce.paradigm import Method
from tokenreduce.reducer import Reducer
from tokenreduce.seen import Evidence, Need
from tokenreduce.tokens import Tokens

Size = tuple[int, int]
"""Width and height of a picture."""


@dataclass(frozen=True)
class Part:
    """Pictures that lie in one grid: features (f, rows * columns, d), and evidence of them."""

    layout: Layout
    features: Tensor
    evidence: Evidence


def layouts(spec: ModelSpec, sizes: Sequence[Size]) -> tuple[Layout, ...]:
    """How `spec` reads pictures of these sizes. Raises InputError for one too long and narrow."""
    side, tiling = spec.vision.side, spec.tiling
    if spec.still != "tiles" or tiling is None:
        return (spec.layout(len(sizes)),)
    if len(sizes) > 1:  # transformers puts one newline after each
        return (Layout(len(sizes), side, side, "frame"),)
    grid = tiling.grid(*sizes[0], side, spec.vision.image_size)
    if grid is None:
        raise InputError(f"{sizes[0][0]} x {sizes[0][1]} pixels are too long and narrow; cut it")
    return (Layout(1, side, side), Layout(1, *grid, "grid"))


def available(parts: Sequence[Layout]) -> int:
    """Visual tokens of all parts, newlines included: what an unreduced model would read."""
    return sum(layout.available for layout in parts)


def grid_of(parts: Sequence[Layout]) -> Layout:
    """For methods inside the LLM: what the places of the whole sequence count along. A picture and
    its tiles have no grid in common, so they are one row."""
    return parts[0] if len(parts) == 1 else Layout(1, 1, available(parts))


def look_at(
    model: VideoModel, sizes: Sequence[Size], pixels: Tensor, needs: frozenset[Need]
) -> tuple[Part, ...]:
    """Pictures of these sizes through the vision tower, and what its last layer showed of them.

    pixels: uint8 (f, S, S, 3), as `images.read_images` gives them. Raises SettingError where a
    method needs the attention between tiles, which never see each other.
    """
    parts = layouts(model.spec, sizes)
    if model.spec.still != "tiles":
        return (Part(parts[0], *model.look(pixels, needs)),)
    if len(parts) > 1 and "attention" in needs:
        raise SettingError(
            f"{model.spec.name} looks at a picture in tiles, which do not attend to each other: "
            "choose a method that reads no attention between patches"
        )
    features, evidence = model.unpooled().look(pixels, needs)
    if len(parts) == 1:
        return (Part(parts[0], features, evidence),)
    first = torch.zeros(1, dtype=torch.int64)
    laid = _laid_evidence(evidence, model.spec, sizes[0])
    grid = _laid(features[1:], model.spec, sizes[0])
    return (Part(parts[0], features[:1], evidence.rows(first)), Part(parts[1], grid, laid))


def reduce_parts(
    parts: Sequence[Part],
    budget: int,
    method: Method | None,
    newline: Tensor | None,
    newlines: NewlineKeep = "share",
    seed: int = 0,
    site: Literal["frames", "clip"] = "frames",
) -> Tokens:
    """All parts as one row of exactly min(budget, available) tokens, places as in the sequence an
    unreduced model would read. Parts get shares of the budget in proportion to their sizes."""
    most = [part.layout.available for part in parts]
    shares = in_proportion(min(budget, sum(most)), most, most)
    done, offset = [], 0
    for part, share in zip(parts, shares, strict=True):
        if share:
            one = replace(part.layout, frames=1)
            reducer = Reducer(one, share, method, newline, newlines, seed, site)
            reducer.add(part.features, part.evidence)
            left = reducer.finish()
            done.append(replace(left, place=left.place + offset))
        offset += part.layout.available
    return Tokens.cat(done)


def _laid(tiles: Tensor, spec: ModelSpec, size: Size) -> Tensor:
    """Patches (t, side * side, c) of the tiles to the one grid that they are cut from
    (1, rows * columns, c): padding cut off, scaled down where there are too many."""
    tiling, tile, side = spec.tiling, spec.vision.image_size, spec.vision.side
    best = None if tiling is None else tiling.best(*size)
    if tiling is None or best is None:
        raise ValueError(f"no tiles for a picture of {size}")
    high, wide = best[0] // tile, best[1] // tile
    grid = tiles.view(high, wide, side, side, -1).permute(4, 0, 2, 1, 3)
    grid = grid.reshape(1, -1, high * side, wide * side)
    rows, columns = tiling.unpadded(*size, side, tile) or (0, 0)
    top, left = (high * side - rows) // 2, (wide * side - columns) // 2
    grid = grid[:, :, top : top + rows, left : left + columns]
    wanted = tiling.grid(*size, side, tile)
    if wanted != (rows, columns):
        grid = F.interpolate(grid, wanted, mode="bilinear")
    return grid.flatten(2).transpose(1, 2)


def _laid_evidence(evidence: Evidence, spec: ModelSpec, size: Size) -> Evidence:
    """What was shown of the tiles' patches, as their features are laid out."""
    salience, keys = evidence.salience, evidence.keys
    if salience is not None:
        salience = _laid(salience[1:].unsqueeze(-1), spec, size).squeeze(-1)
    if keys is not None:
        keys = _laid(keys[1:].flatten(2), spec, size).unflatten(2, keys.shape[2:])
    return Evidence(salience, keys, None, evidence.has_class)
