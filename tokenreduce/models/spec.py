"""What the rest of the project knows of a model: sizes and habits, no weights.

A ModelSpec is read from a checkpoint's configuration alone, so the budget, the context window and
the cost can be checked before any weight is loaded or any video opened. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal

from tokenreduce.budget import Layout, Newline

Still = Literal["stretch", "crop", "tiles"]
"""How pictures that are no video frames are brought to the tower's size. stretch: to the square,
aspect ignored, as video frames are. crop: the shorter side to the tower's, then the middle square.
tiles: a single picture as a whole and in tiles (see `Tiling`); several padded to squares."""


@dataclass(frozen=True)
class Tiling:
    """LLaVA-OneVision's anyres (arXiv 2408.03326, section 3.2), as transformers' processor does it.

    resolutions  (height, width) in pixels that a picture may be padded to, multiples of the tower's
    most         tiles' worth of patches that stay; a larger grid is scaled down to about that
    """

    resolutions: tuple[tuple[int, int], ...]
    most: int

    def best(self, width: int, height: int) -> tuple[int, int] | None:
        """The (height, width) that shows most of a picture of that size, then the one that wastes
        least; None if it is too narrow for all of them."""
        found, shown_most, wasted_least = None, 0, 0
        for high, wide in self.resolutions:
            scale = min(wide / width, high / height)
            shown = min(int(width * scale) * int(height * scale), width * height)
            wasted = wide * high - shown
            if shown > shown_most or (found and shown == shown_most and wasted < wasted_least):
                found, shown_most, wasted_least = (high, wide), shown, wasted
        return found

    def unpadded(self, width: int, height: int, side: int, tile: int) -> tuple[int, int] | None:
        """Rows and columns of patches of the tiled picture without its padding, before any scaling
        down. side: patches along a tile, tile: its pixels."""
        best = self.best(width, height)
        if best is None:
            return None
        rows, columns = best[0] // tile * side, best[1] // tile * side
        # Rounded as transformers does, where products should be whole and are not quite.
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        return rows, columns

    def grid(self, width: int, height: int, side: int, tile: int) -> tuple[int, int] | None:
        """Rows and columns of the tokens of the tiled picture; None if it is too narrow."""
        unpadded = self.unpadded(width, height, side, tile)
        if unpadded is None:
            return None
        rows, columns = unpadded
        ratio = sqrt(rows * columns / (self.most * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
        return (rows, columns) if rows and columns else None


@dataclass(frozen=True)
class VisionSpec:
    """The vision tower: a ViT of `layers` layers over (image_size / patch_size)^2 patches.

    mean, std: per RGB channel, of pixel values in [0, 1]. classes: class tokens, which come before
    the patches.
    """

    layers: int
    width: int
    mlp_width: int
    heads: int
    image_size: int
    patch_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    classes: int = 0

    @property
    def side(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.side**2


@dataclass(frozen=True)
class TextSpec:
    """The language model: `layers` decoder layers, grouped-query attention, gated MLP.

    context: the largest number of positions it was made for. tied: the output layer is the table of
    embeddings.
    """

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_width: int
    vocab: int
    context: int
    tied: bool = False

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_width


@dataclass(frozen=True)
class ModelSpec:
    """A video language model as its configuration describes it.

    pool            "bilinear" | "average" | "max", over 2 x 2 patches after the projector; or
                    "none", each patch a token
    native_frames   how many frames it was trained on; presets count in multiples of it
    time_text       it was trained with LLaVA-Video's time instruction
    toy_world       None, or the version of the generated world that is all it knows
    still           how pictures are brought to the tower's size, None for a model that takes videos
                    alone; tiling: how, for "tiles"
    """

    name: str
    vision: VisionSpec
    text: TextSpec
    pool: str
    newline: Newline
    native_frames: int
    time_text: bool
    toy_world: str | None = None
    still: Still | None = "stretch"
    tiling: Tiling | None = None

    @property
    def side(self) -> int:
        """Tokens along one side of a frame: 27 -> 14 bilinear, 13 average or max, 27 none."""
        if self.pool == "none":
            return self.vision.side
        return ceil(self.vision.side / 2) if self.pool == "bilinear" else self.vision.side // 2

    def layout(self, frames: int) -> Layout:
        return Layout(frames, self.side, self.side, self.newline)
