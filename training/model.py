"""The demo model as it is trained: LLaVA-Video's parts, and a forward pass over packed questions.

A batch is one visual prefix per video and up to a dozen questions behind it. Each question's
positions go on where its prefix ends and it attends to the prefix and itself only, so it scores
exactly as if it had been asked alone. The weights live in stock transformers modules; only the
loop over the decoder layers is written out here, because packing needs two attention patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from tokenreduce.demo.world import NATIVE
from training.vision import features, normalise, tower

WIDTH, DEPTH, HEADS, KV_HEADS, MLP = 192, 12, 6, 2, 512
GRID = 6  # pooled tokens along an edge of a frame
CONTEXT = 8192
AUXILIARY_DEPTH = 4  # the auxiliary head reads the hidden state that enters this layer
AUXILIARY_WIDTH = 8  # 6 directions so far, first sighting, time


@dataclass(frozen=True)
class Packed:
    """A batch of B videos with K questions of up to L tokens each.

    frames uint8 [B, T, 96, 96, 3]; head [H] token ids before the visual tokens; tail [B, N] ids
    between them and the questions, right-padded, `tail_length` [B] of them real; asked [B, K, L]
    ids, right-padded; targets [B, K, L] next ids, -100 where nothing is to be said; `grid` rows
    and columns of the pooled frames; layout [V] indices into a frame table, see `layout`.
    """

    frames: Tensor
    head: Tensor
    tail: Tensor
    tail_length: Tensor
    asked: Tensor
    targets: Tensor
    grid: tuple[int, int]
    layout: Tensor


def spread(count: int, rows: int) -> list[int]:
    """The rows after which `count` newlines stand, evenly, the last row first to get one."""
    return [((index + 1) * rows) // count - 1 for index in range(count)]


def layout(frames: list[tuple[bool, int]], grid: tuple[int, int]) -> Tensor:
    """Indices of the visual tokens, in order, into a [T * (36 + rows * columns + 1)] table.

    Each frame says whether it is shown whole (6 x 6) or as `grid`, and how many newlines it has.
    """
    small = grid[0] * grid[1]
    table = GRID * GRID + small + 1
    indices: list[int] = []
    for number, (whole, newlines) in enumerate(frames):
        rows, columns = (GRID, GRID) if whole else grid
        ends = spread(newlines, rows) if newlines else []
        first = number * table + (0 if whole else GRID * GRID)
        for row in range(rows):
            indices += range(first + row * columns, first + (row + 1) * columns)
            if row in ends:
                indices.append(number * table + table - 1)
    return torch.tensor(indices)


class DemoModel(nn.Module):
    """SigLIP tower (frozen), mlp2x_gelu projector, image_newline, Qwen2."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tower = tower(NATIVE).requires_grad_(False)
        wide = self.tower.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(wide, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.newline = nn.Parameter(torch.randn(WIDTH) * 0.1)
        config = Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=MLP,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        )
        self.llm = Qwen2ForCausalLM(config)
        nn.init.normal_(self.llm.model.embed_tokens.weight, std=0.1)

    def see(self, frames: Tensor) -> Tensor:
        """uint8 [n, 96, 96, 3] to projected, pooled tokens [n, 36, width]."""
        with torch.no_grad():
            patches = features(self.tower, normalise(frames)).detach()
        projected = self.projector(patches)
        n, count, width = projected.shape
        side = int(count**0.5)
        image = projected.view(n, side, side, width).permute(0, 3, 1, 2)
        pooled = functional.avg_pool2d(image, 2)  # bilinear by one half is the mean of 2 x 2
        return pooled.flatten(2).transpose(1, 2)

    def visual(self, pooled: Tensor, grid: tuple[int, int], where: Tensor) -> Tensor:
        """Pooled tokens [B, T, 36, d] to the sequence [B, V, d] that `layout` describes."""
        b, t, _, d = pooled.shape
        image = pooled.view(b * t, GRID, GRID, d).permute(0, 3, 1, 2)
        small = functional.adaptive_avg_pool2d(image, grid).flatten(2).transpose(1, 2)
        newline = self.newline.to(pooled.dtype).expand(b, t, 1, d)
        table = torch.cat([pooled, small.reshape(b, t, -1, d), newline], 2)
        return table.flatten(1, 2)[:, where]

    def forward(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """Hidden states after the last norm [B, K, L, d], and auxiliary-depth visual ones."""
        b, t = batch.frames.shape[:2]
        pooled = self.see(batch.frames.flatten(0, 1)).view(b, t, GRID * GRID, WIDTH)
        return self.answer(self.visual(pooled, batch.grid, batch.layout), batch)

    def answer(
        self, visual: Tensor, batch: Packed, places: Tensor | None = None, blind: int = DEPTH
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, given the visual tokens [B, V, d].

        From layer `blind` on, the questions no longer see the visual tokens.
        """
        embed = self.llm.model.embed_tokens
        b, v = visual.shape[:2]
        head = embed(batch.head).expand(b, -1, -1)
        prefix = torch.cat([head, visual.to(head.dtype), embed(batch.tail)], 1)
        first = head.shape[1]
        length = first + v + batch.tail_length  # [B]
        k, size = batch.asked.shape[1:]
        asked = embed(batch.asked).flatten(1, 2)
        at = torch.arange(prefix.shape[1]).expand(b, -1)
        then = length[:, None, None] + torch.arange(size).expand(b, k, -1)
        turns = (_rope(at), _rope(then.flatten(1)))
        # Questions see the real part of the prefix and, causally, themselves.
        open_ = torch.zeros(b, 1, 1, 1, prefix.shape[1])
        open_.masked_fill_((at >= length[:, None])[:, None, None, None], -1e9)
        shut = open_.clone()
        shut[..., first : first + v] = -1e9
        own = torch.full((size, size), -1e9).triu(1)
        early = visual
        for number, layer in enumerate(self.llm.model.layers):
            if number == AUXILIARY_DEPTH:
                early = prefix[:, first : first + v]
            hidden = shut if number >= blind else open_
            prefix, asked = _layer(layer, prefix, asked, k, turns, hidden, own)
        return self.llm.model.norm(asked).view(b, k, size, -1), early


def _rope(positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, n, head] for Qwen2's rotate-half rotary embedding, theta 10000."""
    width = WIDTH // HEADS
    inverse = 10000.0 ** (-torch.arange(0, width, 2).float() / width)
    angle = positions.float()[:, None, :, None] * inverse
    both = torch.cat([angle, angle], -1)
    return both.cos(), both.sin()


def _turn(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    half = x.shape[-1] // 2
    rotated = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * turn[0].to(x.dtype) + rotated * turn[1].to(x.dtype)


def _norm(norm: Any, x: Tensor) -> Tensor:
    """RMS norm in float32, its output in autocast's type so that it is converted only once."""
    out = functional.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)
    return out.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else out


def _layer(
    layer: Any,
    prefix: Tensor,
    asked: Tensor,
    k: int,
    turns: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
    hidden: Tensor,
    own: Tensor,
) -> tuple[Tensor, Tensor]:
    """One decoder layer over the prefix [B, P, d] and the questions [B, K * L, d]."""
    b, p, d = prefix.shape
    both = torch.cat([prefix, asked], 1)
    x = _norm(layer.input_layernorm, both)
    attention = layer.self_attn
    n = both.shape[1]
    query = attention.q_proj(x).view(b, n, HEADS, -1).transpose(1, 2)
    key = attention.k_proj(x).view(b, n, KV_HEADS, -1).transpose(1, 2)
    value = attention.v_proj(x).view(b, n, KV_HEADS, -1).transpose(1, 2)
    turn = (torch.cat([turns[0][0], turns[1][0]], 2), torch.cat([turns[0][1], turns[1][1]], 2))
    query, key = _turn(query, turn), _turn(key, turn)
    key = key.repeat_interleave(HEADS // KV_HEADS, 1)
    value = value.repeat_interleave(HEADS // KV_HEADS, 1)
    seen = functional.scaled_dot_product_attention(
        query[:, :, :p], key[:, :, :p], value[:, :, :p], is_causal=True
    )
    told = _questions(query, key, value, p, k, hidden, own)
    mixed = torch.cat([seen, told], 2).transpose(1, 2).reshape(b, n, d)
    both = both + attention.o_proj(mixed)
    both = both + layer.mlp(_norm(layer.post_attention_layernorm, both))
    return both[:, :p], both[:, p:]


def _questions(
    query: Tensor, key: Tensor, value: Tensor, p: int, k: int, hidden: Tensor, own: Tensor
) -> Tensor:
    """Attention of the questions: [B, h, K * L, head] to the prefix and to their own block."""
    b, h, n, width = query.shape
    size = (n - p) // k
    scale = width**-0.5
    ask = query[:, :, p:] * scale
    far = (ask @ key[:, :, :p].transpose(-1, -2)).view(b, h, k, size, p)
    blocks = [x[:, :, p:].reshape(b, h, k, size, width) for x in (key, value)]
    near = ask.reshape(b, h, k, size, width) @ blocks[0].transpose(-1, -2)
    scores = torch.cat([far.float() + hidden, near.float() + own], -1)
    weights = scores.softmax(-1).to(value.dtype)
    out = (weights[..., :p].reshape(b, h, k * size, p) @ value[:, :, :p]).view(b, h, k, size, width)
    out = out + weights[..., p:] @ blocks[1]
    return out.reshape(b, h, k * size, width)
