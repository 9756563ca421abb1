"""What the rest of the project knows of a model: sizes and habits, no weights.

A ModelSpec is read from a checkpoint's configuration alone, so the budget, the context window and
the cost can be checked before any weight is loaded or any video opened. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from tokenreduce.budget import Layout, Newline

Still = Literal["stretch", "crop"]
"""stretch: to the square, aspect ignored, as video frames are. crop: the shorter side to the
tower's, then the middle square."""


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

    context: the largest number of positions it was made for.
    """

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_width: int
    vocab: int
    context: int

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
    still           how a picture that is no video frame is brought to the tower's size
    """

    name: str
    vision: VisionSpec
    text: TextSpec
    pool: str
    newline: Newline
    native_frames: int
    time_text: bool
    toy_world: str | None = None
    still: Still = "stretch"

    @property
    def side(self) -> int:
        """Tokens along one side of a frame: 27 -> 14 bilinear, 13 average or max, 27 none."""
        if self.pool == "none":
            return self.vision.side
        return ceil(self.vision.side / 2) if self.pool == "bilinear" else self.vision.side // 2

    def layout(self, frames: int) -> Layout:
        return Layout(frames, self.side, self.side, self.newline)
