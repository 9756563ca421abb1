"""Which sampled frames show what the last sent one showed. Knows thumbnails, no files, no models.

A thumbnail is an area average on a grid of at most SIDE x SIDE cells: noise averages out, and what
a vision tower could see still moves some cell. What counts is the place that changed most, never
the mean over the picture: a small thing that appears changes few cells, but those by much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AUTO = 10.0
"""A threshold for where nobody says otherwise, in levels of 255. Static scenes stay below it, grain
and codec noise included; the smallest things that a tower could see lie above it: see "Repeats" in
docs/decoding.md for what was measured."""

SIDE = 96
"""Cells along an edge: a cell is 4 x 4 pixels of a tower's 384 x 384, a twelfth of a patch."""

BLOCK = 3
"""Cells along an edge of the blocks whose mean is compared: about a patch of the tower."""

NOISE = 2.5
"""A cell stands out if it changed by more than this often what 99 of 100 cells changed by at most:
of Gaussian grain the largest of 9,216 cells is 1.7 times that, of H.264's up to 2.5 times."""

Thumbnail = NDArray[np.uint8]
"""(h, w, channels)."""


class Repeats:
    """Tells repeats from frames that show something new. threshold: levels of 255."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._sent: Thumbnail | None = None

    def repeats(self, thumbnail: Thumbnail) -> bool:
        """Whether a frame may be left out; one that may not is from now on the one compared with.

        Compared with the last frame that was sent, so that what changes slowly is seen in the end.
        """
        if self._sent is not None and change(self._sent, thumbnail) < self._threshold:
            return True
        self._sent = thumbnail
        return False


def change(before: Thumbnail, after: Thumbnail) -> float:
    """By how much the place that changed most did, levels of 255; infinite where sizes differ.

    The larger of two, each blind to what the other sees: the mean change of a block of cells, in
    which grain cancels; and the change of a single cell, for what is too small to move a block,
    less what grain and codec do to cells everywhere.
    """
    if before.shape != after.shape:
        return float("inf")
    step = after.astype(np.int16) - before
    cells = np.abs(step).max(-1).ravel()
    most = cells.size * 99 // 100
    grain = float(np.partition(cells, most)[most])
    return max(_blocks(step), float(cells.max()) - NOISE * grain)


def _blocks(step: NDArray[np.int16]) -> float:
    """The largest mean change of any BLOCK x BLOCK cells, wherever they begin."""
    rows, columns = (min(BLOCK, side) for side in step.shape[:2])
    down, across = step.shape[0] - rows + 1, step.shape[1] - columns + 1
    # 9 cells of at most 255 levels fit into 16 bits.
    bands = _sum([step[i : i + down] for i in range(rows)])
    sums = _sum([bands[:, i : i + across] for i in range(columns)])
    return float(np.abs(sums).max() / (rows * columns))


def _sum(parts: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
