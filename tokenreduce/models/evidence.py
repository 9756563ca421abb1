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

_ROWS = 128


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
    """Of the frames whose tokens (f, classes + patches, width) entered `layer`, for the pooled
    grid.

    A pooled token stands for a window of patches: it has their mean key, their mean salience, and
    attends as they do on average to all the patches of another token together.
    """
    if not needs:
        return Evidence()
    side, classes = spec.vision.side, spec.vision.classes
    if hidden.shape[1] != classes + side**2:
        raise ValueError(f"{hidden.shape[1] - classes} patches of a frame, not {side} x {side}")
    shown = shown_by(attention_of(layer, hidden), classes, needs)
    if spec.pool == "none":
        return shown
    salience, keys, pairs = shown.salience, shown.keys, shown.attention
    if keys is not None:
        keys = pooled(keys.flatten(2), spec).unflatten(2, keys.shape[2:])
    if pairs is not None:
        pairs = pooled(pooled(pairs, spec).transpose(1, 2), spec).transpose(1, 2)
        pairs = pairs / pairs.sum(dim=-1, keepdim=True)
    if salience is not None:
        salience = pooled(salience.unsqueeze(-1), spec).squeeze(-1)
    return Evidence(salience, keys, pairs, shown.has_class)


def shown_by(attention: Attention, classes: int, needs: frozenset[Need]) -> Evidence:
    """Of each of the n tokens after the first `classes` of `attention`, the kinds in `needs`.

    Salience is the attention of the first class token, where there is one.
    """
    salience = keys = pairs = None
    tokens = torch.arange(classes, attention.length, device=attention.k.device)
    if "keys" in needs:
        keys = attention.k.float()[:, :, classes:].transpose(1, 2)
    if "attention" in needs:
        # A block of rows at a time: all heads of all rows are 0.5 GiB for 16 frames of 27 x 27.
        rows = [attention.weights(part).mean(dim=1) for part in tokens.split(_ROWS)]
        pairs = torch.cat(rows, dim=1)[:, :, classes:]
    if "salience" in needs and classes:
        salience = attention.weights(tokens.new_zeros(1)).mean(dim=1)[:, 0, classes:]
    elif "salience" in needs:
        salience = attention.received()
    return Evidence(salience, keys, pairs, has_class=classes > 0)


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
