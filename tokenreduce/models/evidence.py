"""What a vision tower's last layer shows of its patches, pooled as their features are.

Queries and keys are made once more from the layer's own weights and input: the attention functions
of transformers' towers do not hand anything on, and no module is changed for it. Knows no method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenreduce.models.spec import ModelSpec
from tokenreduce.seen import Evidence, Need
from tokenreduce.tokens import Attention


def attention_of(layer: Any, hidden: Tensor) -> Attention:
    """A SigLIP or CLIP layer's attention over its input `hidden` (f, l, width), nothing masked."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    shape = (*normed.shape[:-1], -1, attention.head_dim)
    q, k = (
        project(normed).view(shape).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj)
    )
    return Attention(q, k, attention.scale, causal=False)


def evidence_of(layer: Any, hidden: Tensor, needs: frozenset[Need], spec: ModelSpec) -> Evidence:
    """Of the frames whose patches (f, patches, width) entered `layer`, for the pooled grid.

    A pooled token stands for a window of patches: it has their mean key, their mean salience, and
    attends as they do on average to all the patches of another token together.
    """
    if not needs:
        return Evidence()
    seen, side = attention_of(layer, hidden), spec.vision.side
    if hidden.shape[1] != side**2:
        raise ValueError(f"{hidden.shape[1]} patches of a frame, not {side} x {side}")
    salience = keys = pairs = None
    if "keys" in needs:
        every = seen.k.float().transpose(1, 2)
        keys = pooled(every.flatten(2), spec).unflatten(2, every.shape[2:])
    if "attention" in needs:
        weights = seen.weights(torch.arange(seen.length, device=hidden.device)).mean(dim=1)
        rows = pooled(weights, spec)
        pairs = pooled(rows.transpose(1, 2), spec).transpose(1, 2)
        pairs = pairs / pairs.sum(dim=-1, keepdim=True)
    if "salience" in needs:
        salience = pooled(seen.received().unsqueeze(-1), spec).squeeze(-1)
    return Evidence(salience, keys, pairs)


def pooled(patches: Tensor, spec: ModelSpec) -> Tensor:
    """(f, patches, c) to (f, rows * columns, c), windows as the features are pooled; means, also
    where features take the maximum."""
    f, _, c = patches.shape
    side = spec.vision.side
    grid = patches.view(f, side, side, c).permute(0, 3, 1, 2)
    if spec.pool == "bilinear":
        grid = F.interpolate(grid, size=[spec.side] * 2, mode="bilinear")
    else:
        grid = F.avg_pool2d(grid, 2)
    return grid.permute(0, 2, 3, 1).reshape(f, -1, c)
