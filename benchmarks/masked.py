"""AIM's pruning the way the official code does it, written anew: mask, and remove nothing.

Every layer runs on every token with eager attention. From the first pruned layer on, keys of
pruned tokens are masked, and the importance is read off full n x n attention maps. Here to be
measured against; knows nothing of this project's engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache

from tokenreduce.schedule import Schedule

NAME = "benchmark_masked_eager"


@dataclass
class Masked:
    """The run's state, handed through every layer.

    mask     float32 (n, n), added to the logits: causal, and -inf in pruned columns
    visual   (v,) int64, positions of the visual tokens
    clock    seconds so far, on a device
    seconds  spent on importance
    """

    schedule: Schedule
    depth: int
    visual: Tensor
    mask: Tensor
    clock: Callable[[torch.device], float]
    layer: int = 0
    seconds: float = 0.0


def prefill(
    model: Any,
    embeds: Tensor,
    visual: Tensor,
    schedule: Schedule,
    clock: Callable[[torch.device], float],
) -> tuple[Tensor, DynamicCache, float]:
    """First logits, the (full) cache and the seconds spent on importance.

    embeds (1, n, d), visual (v,) int64 positions among the n. The model's attention is left set.
    """
    AttentionInterface.register(NAME, _attention)
    stack = model.get_decoder()
    stack.set_attn_implementation(NAME)
    n = embeds.shape[1]
    causal = torch.full((n, n), float("-inf"), device=embeds.device).triu(1)
    state = Masked(schedule, len(stack.layers), visual, causal, clock)
    cache = DynamicCache()
    position = torch.arange(n, device=embeds.device).unsqueeze(0)
    rope = stack.rotary_emb(embeds, position)
    hidden = embeds
    for layer in stack.layers:
        hidden = layer(
            hidden,
            attention_mask=None,
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rope,
            masked=state,
        )
    return model.lm_head(stack.norm(hidden[:, -1:])), cache, state.seconds


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    masked: Masked,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Eager attention over repeated keys, then the choice of what the next layer may see."""
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    logits = torch.matmul(query, key.transpose(2, 3)).float() * scaling + masked.mask
    weights = logits.softmax(dim=-1).to(query.dtype)
    out = torch.matmul(weights, value).transpose(1, 2).contiguous()
    _prune(masked, logits)
    return out, None


def _prune(masked: Masked, logits: Tensor) -> None:
    """Masks, for the layers above, all visual columns but the most important ones."""
    count = masked.visual.shape[0]
    keep = masked.schedule.kept(masked.layer, masked.depth, count)
    masked.layer += 1
    if keep == count:
        return
    begun = masked.clock(logits.device)
    gone = masked.visual
    if keep:
        score = _importance(logits)[masked.visual]
        gone = masked.visual[score.argsort(descending=True, stable=True)[keep:]]
    masked.mask = masked.mask.clone()
    masked.mask[:, gone] = float("-inf")
    # A token always sees itself, so that the row of a pruned one stays defined.
    masked.mask.fill_diagonal_(0)
    masked.seconds += masked.clock(logits.device) - begun


def _importance(logits: Tensor) -> Tensor:
    """(n,) five PageRank steps over every head's whole attention map, root mean square of heads."""
    sharp = (logits[0] / 0.1).softmax(dim=-1)
    heads, n, _ = sharp.shape
    p = torch.full((heads, 1, n), 1 / n, device=sharp.device)
    for _ in range(5):
        p = torch.bmm(p, sharp)
    return p.squeeze(1).square().mean(dim=0).sqrt()
