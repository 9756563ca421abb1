"""What the cost model promises besides the papers' figures: parts, bytes, overhead, refusals."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce import cost
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec
from tokenreduce.schedule import Once, Ramp

QWEN2_7B = TextSpec(28, 3584, 18944, 28, 4, 128, 152064, 32768)
SO400M = VisionSpec(26, 1152, 4304, 16, 384, 14)
LLAVA_VIDEO = ModelSpec("llava-video", SO400M, QWEN2_7B, "bilinear", "grid", 64, time_text=True)


def test_costs_add_and_multiply_part_by_part() -> None:
    assert cost.Cost(1, 2) + cost.Cost(30, 40) == cost.Cost(31, 42)
    assert cost.Cost(1, 2) * 3 == cost.Cost(3, 6)
    assert cost.summed([]) == cost.Cost(0, 0)
    assert cost.Cost(1, 2).total == 3


def test_the_cache_of_the_7b_takes_56_kib_a_token() -> None:
    one = cost.kv_bytes(QWEN2_7B, [1] * 28, 0)
    assert one == 28 * 2 * 4 * 128 * 2 == 56 * 1024
    assert cost.kv_bytes(QWEN2_7B, [1] * 28, 0, bytes_per_element=4) == 2 * one
    ragged = [10] * 14 + [5] * 14
    assert cost.kv_bytes(QWEN2_7B, ragged, 3) == 2 * 2 * 512 * (14 * 13 + 14 * 8)


def test_scores_are_needed_only_where_some_go_and_some_stay() -> None:
    assert cost.needing_scores(cost.acting(Ramp(), 28, 1569)) == (14, 15, 16, 17, 18, 19, 20)
    assert cost.needing_scores([5] * 28) == ()


def test_once_acts_one_layer_after_it_is_charged_by_the_paper() -> None:
    schedule = Once(Fraction(1, 2), Fraction(1, 4))
    assert cost.acting(schedule, 4, 100) == (100, 100, 100, 25)
    assert cost.as_paper_charges(schedule, 4, 100) == (100, 100, 25, 25)


def test_scoring_costs_half_a_square_of_products() -> None:
    """n (n + 1) / 2 pairs, each once through q k^T and five times through a PageRank step."""
    assert cost.scoring_cost(QWEN2_7B, 1) == cost.Cost(2 * 3584 + 2 * 5 * 28, 5 * 28)
    assert cost.scoring_cost(QWEN2_7B, 7).matmul == 28 * (2 * 3584 + 2 * 5 * 28)


@pytest.mark.parametrize(("visual", "share"), [(1569, 0.002), (6272, 0.008), (25088, 0.025)])
def test_scoring_stays_a_small_share_of_a_pruned_prefill(visual: int, share: float) -> None:
    """The shares that the prototype measured."""
    per_layer = cost.acting(Ramp(), 28, visual)
    spent = cost.prefill_cost(
        LLAVA_VIDEO,
        frames=0,
        visual_per_layer=per_layer,
        text_tokens=100,
        scored_layers=cost.needing_scores(per_layer),
    )
    assert spent.overhead.total / spent.llm.total == pytest.approx(share, rel=0.25)


def test_merging_charges_every_round_of_every_row() -> None:
    """4 -> 2: two even against two odd tokens, two gone into two, over 3 channels."""
    one = cost.merging_cost(3, 1, [4, 2])
    assert one == cost.Cost(2 * (2 * 2 + 2 * 2) * 3, (3 * 4 + 2 * 2) * 3)
    two_rounds = cost.merging_cost(3, 1, [4, 2, 1])
    assert two_rounds == one + cost.merging_cost(3, 1, [2, 1])
    assert cost.merging_cost(3, 5, [4, 2, 1]) == two_rounds * 5
    assert cost.merging_cost(3, 5, [4]) == cost.Cost()


def test_the_report_holds_the_overhead_against_the_ratios() -> None:
    per_layer = cost.acting(Ramp(), 28, 1569)
    merging = cost.Cost(10**12, 0)
    without = cost.flops(LLAVA_VIDEO, 32, 6273, per_layer, 100)
    with_it = cost.flops(
        LLAVA_VIDEO, 32, 6273, per_layer, 100, scored_layers=range(14, 21), merging=merging
    )
    assert without.overhead == 0
    assert without.ratio_llm == without.llm_unreduced / without.llm
    assert with_it.llm == without.llm
    scored = sum(cost.scoring_cost(QWEN2_7B, per_layer[i] + 100).total for i in range(14, 21))
    assert with_it.overhead == 10**12 + scored
    assert with_it.ratio_llm == with_it.llm_unreduced / (with_it.llm + with_it.overhead)
    assert with_it.ratio_total < without.ratio_total


def test_reducing_nothing_has_ratio_one() -> None:
    flops = cost.flops(LLAVA_VIDEO, 8, 1680, [1680] * 28, 60)
    assert (flops.ratio_llm, flops.ratio_total) == (1, 1)


@given(st.lists(st.integers(0, 5000), min_size=28, max_size=28), st.integers(1, 500))
def test_one_token_more_anywhere_costs_more(per_layer: list[int], text_tokens: int) -> None:
    more = [*per_layer[:-1], per_layer[-1] + 1]
    before, after = (cost.llm_cost(QWEN2_7B, c, text_tokens) for c in (per_layer, more))
    assert after.matmul > before.matmul
    assert after.elementwise > before.elementwise
    assert cost.kv_bytes(QWEN2_7B, more, text_tokens) > cost.kv_bytes(
        QWEN2_7B, per_layer, text_tokens
    )


def test_counts_that_do_not_match_the_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="27 counts for a model of 28 layers"):
        cost.llm_cost(QWEN2_7B, [1] * 27, 10)
    with pytest.raises(ValueError, match="29 counts"):
        cost.kv_bytes(QWEN2_7B, [1] * 29, 10)


def test_a_scored_layer_outside_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[28\]"):
        cost.flops(LLAVA_VIDEO, 1, 10, [10] * 28, 10, scored_layers=[3, 28])
