"""Visual tokens put between the text of a prompt; knows no family of models and no template."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenreduce.budget import Layout
from tokenreduce.engine.types import Prompt
from tokenreduce.tokens import Tokens


def spliced(
    embed: Callable[[Tensor], Tensor],
    pieces: tuple[list[int], list[int]],
    visual: Tokens,
    grid: Layout,
    device: torch.device,
) -> Prompt:
    """The prompt with `visual` (1, n, d), whose places count along `grid`, between two pieces.

    embed: token ids int64 (1, l) to embeddings (1, l, d); pieces: the ids before and after.
    """
    before, after = (embed(torch.tensor([ids], device=device)) for ids in pieces)
    first = before.shape[1]
    embeds = torch.cat([before, visual.x.to(before), after], dim=1)
    places = torch.arange(first, first + visual.count, device=device)
    return Prompt(embeds, places, visual.bare(), grid)
