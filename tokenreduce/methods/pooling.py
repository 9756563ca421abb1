"""A control: spatial average pooling of each frame to exactly the tokens asked for.

Simple pooling is a close control for every published method (arXiv 2411.17686, tables), which
reports it for whole factors only; here any count on any grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import ClassVar

import torch

from tokenreduce.budget import Layout
from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import mean_into, once
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes


@dataclass(frozen=True)
class Pooling:
    """A token for each cell of a grid of `keep` nearly square ones, the mean of its patches. It
    stands at the patch in the middle of the cell. Cells are bands of rows, each cut into columns,
    the same in every frame.

    Where tokens have left before, or several frames are seen as one row of tokens, cells are runs
    of neighbours in raster order.
    """

    sites: ClassVar[frozenset[Site]] = frozenset({"frames"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = None
    rounds = staticmethod(once)

    def filter(self, seen: Seen, keep: int) -> Split:
        b, n = seen.tokens.size.shape
        _, middle = cells(*_sides(seen.grid, n), keep)
        index = torch.tensor(middle, dtype=torch.int64, device=seen.tokens.place.device)
        return Split.of_keep(index.expand(b, keep), n)

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        b, n = seen.tokens.size.shape
        cell, _ = cells(*_sides(seen.grid, n), split.keep.shape[1])
        index = torch.tensor(cell, dtype=torch.int64, device=seen.tokens.place.device)
        return Affinity.one(index.expand(b, n).gather(1, split.drop))

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        return mean_into(seen, split, affinity, weighted=True)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        return Cost(0, (sizes.n + keep) * sizes.channels * sizes.rows)


def cells(rows: int, columns: int, keep: int) -> tuple[list[int], list[int]]:
    """Which of `keep` cells each place of a grid is in, and the place in the middle of each cell,
    both in raster order; 1 <= keep <= rows * columns.

    With B bands, keep / B cells in each on average: B is chosen so that cells are nearly square,
    bands and cells differ from their neighbours by a row or column at most.
    """
    bands = round(sqrt(keep * rows / columns))
    bands = min(max(bands, ceil(keep / columns), 1), rows, keep)
    cell = [0] * (rows * columns)
    middle: list[int] = []
    for band in range(bands):
        top, bottom = band * rows // bands, (band + 1) * rows // bands
        parts = (band + 1) * keep // bands - band * keep // bands
        for part in range(parts):
            left, right = part * columns // parts, (part + 1) * columns // parts
            for row in range(top, bottom):
                start = row * columns
                cell[start + left : start + right] = [len(middle)] * (right - left)
            middle.append((top + bottom - 1) // 2 * columns + (left + right - 1) // 2)
    return cell, middle


def _sides(grid: Layout, n: int) -> tuple[int, int]:
    """Rows and columns to cut: those of a whole frame, else one row of all that is there."""
    whole = grid.frames == 1 and n == grid.rows * grid.columns
    return (grid.rows, grid.columns) if whole else (1, n)
