"""Which sampled frames show what the last sent one showed. Knows thumbnails, no files, no models.

A thumbnail is an area average on a grid of at most SIDE x SIDE cells, so that noise averages out
and whatever a vision tower could see still moves some cell. What counts is the cell that changed
most, not the mean: a small thing that appears changes few cells, but those by much.
"""

from __future__ import annotations

import numpy as np

from tokenreduce.video.pixels import Pixels

SIDE = 96
"""Cells along an edge: a cell is 4 x 4 pixels of a tower's 384 x 384, an eighth of a patch."""


class Repeats:
    """Tells repeats from frames that show something new. threshold: levels of 255."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._sent: Pixels | None = None

    def repeats(self, thumbnail: Pixels) -> bool:
        """Whether a frame may be left out; one that may not is from now on the one compared with.

        Compared with the last frame that was sent, so that what changes slowly is seen in the end.
        """
        if self._sent is not None and change(self._sent, thumbnail) < self._threshold:
            return True
        self._sent = thumbnail
        return False


def change(before: Pixels, after: Pixels) -> float:
    """Levels of 255 by which the cell that changed most did; infinite where sizes differ."""
    if before.shape != after.shape:
        return float("inf")
    return float((np.maximum(before, after) - np.minimum(before, after)).max(initial=0))
