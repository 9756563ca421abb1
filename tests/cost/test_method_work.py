"""`Method.work`, over the registry, against the matrix products that torch counts.

A new method is checked for free. Element-wise work is not: torch's counter does not see it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenreduce import overhead
from tokenreduce.budget import Layout
from tokenreduce.methods import METHODS
from tokenreduce.methods.sparsevlm import SparseVLM
from tokenreduce.paradigm import Method, Site, reduce
from tokenreduce.seen import Evidence, Seen
from tokenreduce.tokens import Attention, Tokens
from tokenreduce.work import Sizes

HEADS, HEAD_WIDTH, TEXT, FRAMES = 4, 16, 16, 4
SITES: tuple[Site, ...] = ("encoder", "frames", "clip", "llm")
CASES = [
    pytest.param(name, site, classes, id=f"{name}-{site}{'-class' * classes}")
    for name, kind in METHODS.items()
    for site in SITES
    if site in kind().sites
    for classes in ((0, 1) if site == "encoder" else (0,))
]
# AIM and FiCoCo-L count the pairs that are not in the future, but blocks of rows are computed
# whole, and in a short sequence a block of its fixed number of bytes is all of it. test_overhead.py
# has AIM with blocks of 16 rows, within 5 %.
IN_BLOCKS = {196: 0.55, 784: 0.2}


def seen(site: Site, n: int, channels: int, classes: int, on_keys: bool) -> Seen:
    """As a method meets `n` random tokens at `site`: inside the encoder after class tokens, inside
    the LLM before 16 positions of text. on_keys: after the encoder similarity is that of keys."""
    generator = torch.Generator().manual_seed(n + channels)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = 1 if site in ("clip", "llm") else 2
    tokens = Tokens.fresh(drawn(rows, n, channels))
    grid = Layout(1, 14, n // 14) if rows == 2 else Layout(FRAMES, 7, n // FRAMES // 7)
    if site in ("frames", "clip"):
        salience, keys = drawn(rows, n).softmax(dim=-1), drawn(rows, n, HEADS, HEAD_WIDTH)
        pairs = drawn(rows, n, n).softmax(dim=-1) if site == "frames" else None
        metric = keys.mean(dim=2) if on_keys else tokens.x
        return Seen(tokens, metric, grid, evidence=Evidence(salience, keys, pairs))
    length, shared = (n + classes, HEADS) if site == "encoder" else (n + TEXT, HEADS // 2)
    q, k = drawn(rows, HEADS, length, HEAD_WIDTH), drawn(rows, shared, length, HEAD_WIDTH)
    attention = Attention(q, k, HEAD_WIDTH**-0.5, site == "llm")
    metric = k[:, :, classes:].mean(dim=1) if site == "encoder" else tokens.x
    visual = torch.arange(classes, n + classes)
    entered = torch.zeros(length, channels)  # all text is alike, so all of it rates
    return Seen(tokens, metric, grid, visual, attention, entered=lambda: entered, depth=(1, 4))


def sizes_of(before: Seen) -> Sizes:
    b, n, channels = before.tokens.x.shape
    length = before.attention.length if before.attention else 0
    metric = before.metric.shape[-1]
    return Sizes(b, n, channels, metric, HEADS, HEAD_WIDTH, length, before.grid.frames)


def counted(method: Method, before: Seen, keep: int) -> int:
    """Operations in matrix products of one reduction. Distances are products for torch too, which
    its counter does not know."""

    def distances(x: Any, y: Any, *rest: Any, **more: Any) -> int:
        return int(2 * x.numel() * y[-2])

    aten = torch.ops.aten
    known = {aten._euclidean_dist: distances, aten._cdist_forward: distances}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        reduce(method, before, keep)
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("n", "channels", "keep"), [(196, 64, 49), (784, 256, 392)])
@pytest.mark.parametrize(("name", "site", "classes"), CASES)
def test_what_a_method_multiplies(
    name: str,
    site: Site,
    classes: int,
    n: int,
    channels: int,
    keep: int,
) -> None:
    method = METHODS[name]()
    before = seen(site, n, channels, classes, "keys" in method.needs)
    ours = overhead.rounds(method, sizes_of(before), keep).matmul
    tolerance = IN_BLOCKS[n] if name in ("aim-prune", "ficoco-l") else 0.05
    assert counted(method, before, keep) == pytest.approx(ours, rel=tolerance)


def test_text_that_does_not_rate_makes_sparsevlm_cheaper_than_counted() -> None:
    """Who rates depends on the question; all text is counted."""
    before = seen("llm", 196, 64, 0, False)
    entered = torch.randn(before.need_attention()[0].length, 64)
    some = replace(before, entered=lambda: entered)
    all_ = overhead.rounds(SparseVLM(), sizes_of(before), 98).matmul
    assert 0.4 * all_ < counted(SparseVLM(), some, 98) < 0.95 * all_
