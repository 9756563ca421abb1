"""What the cost model promises besides the papers' figures: parts, bytes, overhead, refusals."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce import cost
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec
from tokenreduce.schedule import Once, Ramp
from tokenreduce.work import Cost

QWEN2_7B = TextSpec(28, 3584, 18944, 28, 4, 128, 152064, 32768)
SO400M = VisionSpec(26, 1152, 4304, 16, 384, 14)
LLAVA_VIDEO = ModelSpec("llava-video", SO400M, QWEN2_7B, "bilinear", "grid", 64, time_text=True)


def test_costs_add_and_multiply_part_by_part() -> None:
    assert Cost(1, 2) + Cost(30, 40) == Cost(31, 42)
    assert Cost(1, 2) * 3 == Cost(3, 6)
    assert cost.summed([]) == Cost(0, 0)
    assert Cost(1, 2).total == 3


def test_the_cache_of_the_7b_takes_56_kib_a_token() -> None:
    one = cost.kv_bytes(QWEN2_7B, [1] * 28, 0)
    assert one == 28 * 2 * 4 * 128 * 2 == 56 * 1024
    assert cost.kv_bytes(QWEN2_7B, [1] * 28, 0, bytes_per_element=4) == 2 * one
    ragged = [10] * 14 + [5] * 14
    assert cost.kv_bytes(QWEN2_7B, ragged, 3) == 2 * 2 * 512 * (14 * 13 + 14 * 8)


def test_once_acts_one_layer_after_it_is_charged_by_the_paper() -> None:
    schedule = Once(Fraction(1, 2), Fraction(1, 4))
    assert cost.acting(schedule, 4, 100) == (100, 100, 100, 25)
    assert cost.as_paper_charges(schedule, 4, 100) == (100, 100, 25, 25)


def test_the_report_holds_the_overhead_against_the_ratios() -> None:
    per_layer = cost.acting(Ramp(), 28, 1569)
    without = cost.flops(LLAVA_VIDEO, 32, 6273, per_layer, 100)
    with_it = cost.flops(LLAVA_VIDEO, 32, 6273, per_layer, 100, overhead=Cost(10**12, 5))
    assert without.overhead == 0
    assert without.ratio_llm == without.llm_unreduced / without.llm
    assert with_it.llm == without.llm
    assert with_it.overhead == 10**12 + 5
    assert with_it.ratio_llm == with_it.llm_unreduced / (with_it.llm + with_it.overhead)
    spent = with_it.vision + with_it.llm + with_it.overhead
    assert with_it.ratio_total == (with_it.vision + with_it.llm_unreduced) / spent


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
