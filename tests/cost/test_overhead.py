"""What reductions compute by themselves, against torch's own count of the same work."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenreduce import cost, overhead
from tokenreduce.budget import Layout
from tokenreduce.engine.types import Prune
from tokenreduce.importance import importance
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.controls import Random
from tokenreduce.methods.ficoco_v import FiCoCoV
from tokenreduce.models.spec import TextSpec, VisionSpec
from tokenreduce.paradigm import Method
from tokenreduce.reducer import Reducer
from tokenreduce.schedule import Once, Ramp
from tokenreduce.tokens import Attention
from tokenreduce.work import Cost, Sizes, bipartite

QWEN2_7B = TextSpec(28, 3584, 18944, 28, 4, 128, 152064, 32768)
SMALL = TextSpec(4, 64, 128, 4, 2, 16, 100, 4096)
SPECS = (VisionSpec(2, 32, 64, 2, 96, 8), SMALL)
AIM = Prune(AimPrune(), Ramp())


def scoring(text: TextSpec, tokens: int, iterations: int = 5) -> Cost:
    """Of one layer with `tokens` positions, one of them to go."""
    sizes = Sizes(1, tokens, text.width, 0, text.heads, text.head_width, tokens)
    return AimPrune(iterations=iterations).work(sizes, 1)


def test_scoring_costs_half_a_square_of_products() -> None:
    """n (n + 1) / 2 pairs, each once through q k^T and five times through a PageRank step."""
    assert scoring(QWEN2_7B, 1) == Cost(2 * 3584 + 2 * 5 * 28, 5 * 28)
    assert scoring(QWEN2_7B, 7).matmul == 28 * (2 * 3584 + 2 * 5 * 28)


def test_scoring_is_what_importance_multiplies() -> None:
    """Whole blocks of 16 rows are computed, so a little of the future comes on top."""
    n = 500
    attention = Attention(torch.randn(1, 4, n, 16), torch.randn(1, 2, n, 16), 0.25, causal=True)
    with FlopCounterMode(display=False) as counted:
        importance(attention, block_bytes=1)
    assert counted.get_total_flops() == pytest.approx(scoring(SMALL, n).matmul, rel=0.05)


@pytest.mark.parametrize(("visual", "share"), [(1569, 0.002), (6272, 0.008), (25088, 0.025)])
def test_scoring_stays_a_small_share_of_a_pruned_prefill(visual: int, share: float) -> None:
    """The shares that the prototype measured."""
    per_layer = cost.acting(Ramp(), 28, visual)
    scoring = overhead.inside_llm([AIM], QWEN2_7B, per_layer, 100)
    spent = cost.llm_cost(QWEN2_7B, per_layer, 100)
    assert scoring.total / spent.total == pytest.approx(share, rel=0.25)


def test_only_layers_where_some_go_and_some_stay_are_scored() -> None:
    per_layer = cost.acting(Ramp(), 28, 1569)
    scored = [scoring(QWEN2_7B, per_layer[i] + 100) for i in range(14, 21)]
    assert overhead.inside_llm([AIM], QWEN2_7B, per_layer, 100) == cost.summed(scored)


def test_the_second_prune_of_a_layer_scores_what_the_first_left() -> None:
    both = [
        Prune(AimPrune(), Once(Fraction(1, 2), Fraction(1, 2))),
        Prune(AimPrune(iterations=1), Once(Fraction(1, 2), Fraction(1, 4))),
    ]
    twice = scoring(SMALL, 110) + scoring(SMALL, 60, iterations=1)
    assert overhead.inside_llm(both, SMALL, [100, 100, 100, 25], 10) == twice


def test_controls_compute_nothing() -> None:
    layout = Layout(4, 6, 6, "grid")
    assert overhead.inside_llm([Prune(Random(), Ramp())], SMALL, [9, 9, 9, 2], 5) == Cost()
    for method in (Random(), None):
        assert overhead.before_llm(method, SPECS, layout, 20) == Cost()


def test_merging_charges_every_round_of_every_row() -> None:
    """4 -> 2: two even against two odd tokens, two gone into two, over 3 channels; scaling to
    length 1 beside it, and the mean."""
    one = bipartite(3, 1, [4, 2], 3)
    assert one == Cost(2 * 2 * 2 * 3, 3 * 4 * 3 + (2 + 2 * 2) * 3)
    two_rounds = bipartite(3, 1, [4, 2, 1], 3)
    assert two_rounds == one + bipartite(3, 1, [2, 1], 3)
    assert bipartite(3, 5, [4, 2, 1], 3) == two_rounds * 5
    assert bipartite(3, 5, [4], 3) == Cost()


def test_merging_nothing_costs_nothing() -> None:
    layout = Layout(4, 6, 6, "grid")
    assert overhead.before_llm(AimMerge(), SPECS, layout, layout.available) == Cost()


@pytest.mark.parametrize("budget", [100, 42, 9, 3, 1])
def test_merging_is_what_the_reducer_multiplies(budget: int) -> None:
    """Down to budgets below one token a frame, where runs of frames merge too."""
    layout, method = Layout(9, 6, 6, "grid"), AimMerge()
    features, newline = torch.randn(9, 36, 64), torch.randn(64)
    with FlopCounterMode(display=False) as counted:
        _reduce(layout, budget, method, features, newline)
    ours = overhead.before_llm(method, SPECS, layout, budget)
    assert counted.get_total_flops() == ours.matmul


def _reduce(layout: Layout, budget: int, method: Method, features: Tensor, newline: Tensor) -> None:
    reducer = Reducer(
        Layout(1, layout.rows, layout.columns, layout.newline), budget, method, newline
    )
    reducer.add(features)
    assert reducer.finish().count == budget


@pytest.mark.parametrize("classes", [0, 1])
def test_keys_are_compared_only_where_there_is_no_class_token(classes: int) -> None:
    """By FiCoCo-V on 4 frames of 16 patches whose keys, mean over heads, have 16 channels."""
    vision = VisionSpec(2, 32, 64, 2, 32, 8, classes=classes)
    layout = Layout(4, 4, 4)
    own = overhead.before_llm(FiCoCoV(), (vision, SMALL), layout, 4 * 9).matmul
    own -= 4 * overhead.shown(FiCoCoV(), vision).matmul
    assert own == (0 if classes else 4 * 2 * 16 * 16)
