"""Reduction between the layers of a vision tower: keeping all is the plain tower, removing is
masking, counts are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from tokenreduce.budget import Layout
from tokenreduce.engine.encoder import Encoded, ToCount, run
from tokenreduce.engine.types import Prune
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.models.evidence import attention_of
from tokenreduce.paradigm import Site
from tokenreduce.schedule import Even, Full, Once, Ramp, Schedule, Steps
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import at_once, nowhere, once, prune
from tokenreduce.tokens import Split

DEPTH, SIDE = 6, 5
GRID = Layout(1, SIDE, SIDE)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "image_size": 14 * SIDE,
    "patch_size": 14,
}


@dataclass
class BySalience:
    """Prunes what gets least attention, from the class token or from all; notes what it saw."""

    sites: ClassVar[frozenset[Site]] = frozenset({"encoder"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = Even()
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)
    work = staticmethod(at_once)
    seen: list[Seen] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)

    def filter(self, seen: Seen, keep: int) -> Split:
        self.seen.append(seen)
        split = Split.of_score(seen.salience, keep)
        self.left.append(seen.tokens.place.gather(1, split.keep))
        return split


@dataclass(frozen=True)
class Tower:
    """layers and what enters the first of them; classes: how many tokens are no patches."""

    layers: Any
    hidden: Tensor
    classes: int

    def plain(self) -> list[Tensor]:
        """What enters each layer and leaves the last."""
        inputs = [self.hidden]
        for layer in self.layers:
            inputs.append(layer(inputs[-1], None))
        return inputs


def tower(kind: str, rows: int = 3) -> Tower:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pixels = torch.randn(rows, 3, 14 * SIDE, 14 * SIDE)
        if kind == "clip":
            clip = CLIPVisionModel(CLIPVisionConfig(**SIZES)).eval()  # type: ignore[arg-type]  # sizes of mixed types, by name
            _spread(clip)
            return Tower(clip.encoder.layers, clip.pre_layrnorm(clip.embeddings(pixels)), 1)
        config = SiglipVisionConfig(**SIZES, vision_use_head=False)  # type: ignore[arg-type]  # as above
        siglip = SiglipVisionModel(config).eval()
        _spread(siglip)
        return Tower(siglip.encoder.layers, siglip.embeddings(pixels), 0)


def _spread(model: Any) -> None:
    """Attention far from uniform: else removing tokens changes next to nothing."""
    for name, parameter in model.named_parameters():
        if "proj" in name and parameter.dim() == 2:
            parameter.mul_(0).add_(torch.randn_like(parameter) * 0.35)


@pytest.fixture(params=["clip", "siglip"])
def made(request: pytest.FixtureRequest) -> Tower:
    return tower(request.param)


def reduced(made: Tower, *reductions: Prune, **options: Any) -> Encoded:
    return run(made.layers, made.hidden, made.classes, reductions, GRID, attention_of, **options)


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("reductions", [(), (Prune(BySalience(), Full()),)], ids=["none", "full"])
def test_keeping_all_is_the_plain_tower_bit_for_bit(
    made: Tower, reductions: tuple[Prune, ...], proportional: bool
) -> None:
    plain = made.plain()
    out = reduced(made, *reductions, proportional=proportional)
    assert torch.equal(out.hidden, plain[-1])
    assert torch.equal(out.tokens.x, plain[-1][:, made.classes :])
    assert torch.equal(out.shown, plain[-2])
    assert out.per_layer == (SIDE**2,) * DEPTH
    assert out.tokens.place.tolist() == [list(range(SIDE**2))] * 3


@pytest.mark.parametrize(
    "schedule", [Even(Fraction(1, 3)), Even(), Once(Fraction(1, 2), Fraction(1, 2))]
)
def test_removing_is_masking(made: Tower, schedule: Schedule) -> None:
    """A plain loop over all tokens in which each layer cannot look at what has left."""
    method = BySalience()
    out = reduced(made, Prune(method, ToCount(schedule, 6)))
    hidden, calls = made.hidden, list(method.left)
    present = torch.ones(3, SIDE**2, dtype=torch.bool)
    for index, layer in enumerate(made.layers):
        sees = torch.cat([torch.ones(3, made.classes, dtype=torch.bool), present], dim=1)
        mask = torch.zeros(3, 1, 1, sees.shape[1]).masked_fill(~sees[:, None, None], -math.inf)
        hidden = layer(hidden, mask.expand(-1, -1, sees.shape[1], -1))
        if ToCount(schedule, 6).kept(index, DEPTH, SIDE**2) < int(present[0].sum()):
            present = torch.zeros_like(present).scatter(1, calls.pop(0), True)
    assert not calls
    where = torch.cat(
        [torch.arange(made.classes).expand(3, -1), out.tokens.place + made.classes], dim=1
    )
    wanted = hidden.gather(1, where.unsqueeze(-1).expand(-1, -1, 32))
    torch.testing.assert_close(out.hidden, wanted, rtol=1e-4, atol=1e-5)
    # Rows lose different tokens, and it matters to those that stay.
    assert out.tokens.place[0].tolist() != out.tokens.place[1].tolist()
    untouched = made.plain()[-1].gather(1, where.unsqueeze(-1).expand(-1, -1, 32))
    assert (out.hidden - untouched).abs().max() > 1e-2


@pytest.mark.parametrize("keep", [1, 2, 7, 24, 25, 99])
@pytest.mark.parametrize(
    "shape", [Even(), Even(Fraction(1, 2)), Steps((Fraction(1, 3), Fraction(2, 3)), Fraction(1, 2))]
)
def test_rows_end_at_exactly_the_count(made: Tower, shape: Schedule, keep: int) -> None:
    wanted = ToCount(shape, keep)
    out = reduced(made, Prune(BySalience(), wanted))
    m = min(keep, SIDE**2)
    assert out.tokens.x.shape == (3, m, 32)
    assert out.hidden.shape == (3, made.classes + m, 32)
    assert torch.equal(out.hidden[:, made.classes :], out.tokens.x)
    assert (out.tokens.place.diff(dim=1) > 0).all()
    entered = [SIDE**2, *(wanted.kept(i, DEPTH, SIDE**2) for i in range(DEPTH - 1))]
    assert list(out.per_layer) == entered
    assert out.shown.shape[1] == made.classes + entered[-1] == made.classes + out.entered.count


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(
        [
            Even(),
            Even(Fraction(1, 2), Fraction(9, 10)),
            Once(Fraction(1, 3), Fraction(1, 2)),
            Steps((Fraction(1, 4), Fraction(2, 4), Fraction(3, 4)), Fraction(7, 10)),
            Ramp(),
        ]
    ),
    st.integers(1, 40),
    st.integers(1, 1500),
    st.integers(1, 1500),
)
def test_a_shape_is_brought_to_any_count(shape: Schedule, depth: int, n: int, keep: int) -> None:
    kept = [ToCount(shape, keep).kept(i, depth, n) for i in range(depth)]
    assert kept[-1] == min(keep, n)
    assert all(a >= b for a, b in zip([n, *kept], kept, strict=False))


def test_equal_steps_remove_what_the_formula_says() -> None:
    """n - floor((n - keep) (i + 1 - l1) / (l2 - l1)), over the last 12 of 24 layers and on 23."""
    schedule = ToCount(Even(Fraction(1, 2)), 64)
    kept = [schedule.kept(i, 24, 576) for i in range(24)]
    assert kept == [576] * 12 + [576 - 512 * j // 12 for j in range(1, 13)]
    odd = [schedule.kept(i, 23, 576) for i in range(23)]
    assert odd == [576] * 11 + [576 - 512 * (2 * j - 1) // 23 for j in range(1, 13)]


def test_a_schedule_that_removes_nothing_reaches_no_count() -> None:
    with pytest.raises(ValueError, match="removes nothing"):
        ToCount(Full(), 5).kept(0, 4, 9)
    with pytest.raises(ValueError, match="at least 1"):
        ToCount(Even(), 0)


def test_a_method_sees_the_layer_it_follows(made: Tower) -> None:
    method = BySalience()
    reduced(made, Prune(method, ToCount(Even(), 3)), seed=9)
    first, second = method.seen[:2]
    plain = made.plain()
    assert torch.equal(first.tokens.x, plain[1][:, made.classes :])
    assert first.has_class is (made.classes == 1)
    assert (first.depth, second.depth) == ((0, DEPTH), (1, DEPTH))
    assert first.seed == 9
    assert first.grid is GRID

    attention = made.layers[0].self_attn
    normed = made.layers[0].layer_norm1(made.hidden)
    q, k = (
        p(normed).unflatten(-1, (4, 8)).transpose(1, 2)
        for p in (attention.q_proj, attention.k_proj)
    )
    weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1).mean(dim=1)
    wanted = weights[:, 0, 1:] if made.classes else weights.mean(dim=1)
    torch.testing.assert_close(first.salience, wanted)
    torch.testing.assert_close(first.metric, k[:, :, made.classes :].mean(dim=1))
    assert second.metric.shape[1] == second.tokens.count < SIDE**2


def test_a_second_method_sees_what_the_first_left(made: Tower) -> None:
    first, second = BySalience(), BySalience()
    out = reduced(
        made,
        Prune(first, Once(Fraction(1, 2), Fraction(2, 5))),
        Prune(second, Once(Fraction(1, 2), Fraction(1, 5))),
    )
    assert out.tokens.count == 5
    (seen,), (before,) = second.seen, first.seen
    assert seen.tokens.place.tolist() == first.left[0].tolist()
    index = seen.tokens.place
    wide = index.unsqueeze(-1).expand(-1, -1, before.metric.shape[-1])
    assert torch.equal(seen.metric, before.metric.gather(1, wide))
    (now, _), (then, _) = seen.need_attention(), before.need_attention()
    assert torch.equal(now.q[:, :, : made.classes], then.q[:, :, : made.classes])
    assert now.length == made.classes + 10


@pytest.mark.parametrize("keep", [13, 4])
def test_merging_in_rounds_carries_sizes_and_keys(made: Tower, keep: int) -> None:
    """AIM for images: after the last layer, by keys, in as many rounds as it takes."""
    out = reduced(
        made, Prune(AimMerge(), ToCount(Once(Fraction(DEPTH - 1, DEPTH), Fraction(1, 2)), keep))
    )
    assert out.per_layer == (SIDE**2,) * DEPTH
    assert out.tokens.count == keep
    assert out.tokens.size.sum(dim=1).tolist() == [SIDE**2] * 3
    values, keys = (
        made.plain()[-1][:, made.classes :],
        attention_of(made.layers[-1], made.plain()[-2]).k,
    )
    metric = keys[:, :, made.classes :].mean(dim=1)
    for row in range(3):
        x, u, left = values[row], metric[row], SIDE**2
        place = list(range(left))
        for gone in [12, 6, 3] if keep == 4 else [12]:
            x, u, place = merged(x, u, place, gone)
        assert place == out.tokens.place[row].tolist()
        torch.testing.assert_close(out.tokens.x[row], x, rtol=1e-4, atol=1e-5)


def merged(x: Tensor, u: Tensor, place: list[int], gone: int) -> tuple[Tensor, Tensor, list[int]]:
    """One of AIM's rounds on one frame, token by token."""
    unit = u / u.norm(dim=-1, keepdim=True)
    even, odd = range(0, len(place), 2), range(1, len(place), 2)
    best = {a: max(odd, key=lambda b: float(unit[a] @ unit[b])) for a in even}
    going = sorted(even, key=lambda a: -float(unit[a] @ unit[best[a]]))[:gone]
    stay = [i for i in range(len(place)) if i not in going]

    def mean(values: Tensor) -> Tensor:
        groups = [[i, *(a for a in going if best[a] == i)] for i in stay]
        return torch.stack([values[group].mean(dim=0) for group in groups])

    return mean(x), mean(u), [place[i] for i in stay]


def test_proportional_attention_counts_a_token_by_its_size(made: Tower) -> None:
    """Where tokens of one frame are all alike in pairs, merging pairs changes nothing at all."""
    doubled = made.hidden.clone()
    start = made.classes
    doubled[:, start + 1 : start + 24 : 2] = doubled[:, start : start + 23 : 2]
    twin = Tower(made.layers, doubled, made.classes)
    plain = twin.plain()[-1]
    schedule = ToCount(Once(Fraction(0), Fraction(1, 2)), 13)
    aware = reduced(twin, Prune(AimMerge(), schedule), proportional=True)
    assert aware.tokens.size.max() == 2
    where = (aware.tokens.place + start).unsqueeze(-1).expand(-1, -1, 32)
    torch.testing.assert_close(aware.tokens.x, plain.gather(1, where), rtol=1e-3, atol=1e-4)
    blind = reduced(twin, Prune(AimMerge(), schedule))
    assert (blind.tokens.x - plain.gather(1, where)).abs().max() > 1e-2


def test_another_grid_is_refused(made: Tower) -> None:
    for grid in (Layout(1, 4, 4), Layout(5, 1, 5), Layout(1, 5, 5, "grid")):
        with pytest.raises(ValueError, match="not those of"):
            run(made.layers, made.hidden, made.classes, (), grid, attention_of)
