"""The cost table: what it says at 60 and 120 columns, in ASCII, and that it never runs over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import Result

from tokenreduce.result import Answer, FramesUsed, Seconds

Run = Callable[..., Result]
Stubbed = Callable[[str], list[dict[str, Any]]]
Part = Callable[[str], ModuleType]

NARROW = """\
model          lmms-lab/LLaVA-Video-7B-Qwen2, nf4
preset         aim: aim-merge + aim-prune, seed 0
frames         64 of 64 asked for, from 0.00 s to 1834.56 s
visual tokens  13,440 raw -> 3,360 merged (25.0% kept) -> 0
               at the last layer
per LLM layer  ███████████████▇▆▅▅▄▃▂▁▁▁▁▁▁  mean 2,220
prefill        23.6 TFLOP in the LLM, 10.6x less than
               unreduced (249 TFLOP)
               64.9 TFLOP with the vision tower, 4.4x less
               than unreduced
KV cache       149.7 MiB, 5.2x less than unreduced
               (781.1 MiB)
seconds        load 12.10, decode 3.21, encode 1.18,
               reduce 0.07, prefill 0.81, generate 2.13,
               total 19.52
               first token 5.30 after loading
speed          30.5 tokens/s, 66 tokens generated
peak memory    6.1 GiB device, 2.3 GiB host
"""

WIDE_ASCII = """\
model          lmms-lab/LLaVA-Video-7B-Qwen2, nf4
preset         aim: aim-merge + aim-prune, seed 0
frames         64 of 64 asked for, from 0.00 s to 1834.56 s
visual tokens  13,440 raw -> 3,360 merged (25.0% kept) -> 0 at the last layer
per LLM layer  ###############*+==-:.______  mean 2,220
prefill        23.6 TFLOP in the LLM, 10.6x less than unreduced (249 TFLOP)
               64.9 TFLOP with the vision tower, 4.4x less than unreduced
KV cache       149.7 MiB, 5.2x less than unreduced (781.1 MiB)
seconds        load 12.10, decode 3.21, encode 1.18, reduce 0.07, prefill 0.81, generate 2.13,
               total 19.52
               first token 5.30 after loading
speed          30.5 tokens/s, 66 tokens generated
peak memory    6.1 GiB device, 2.3 GiB host
"""


def test_seconds_that_no_part_accounts_for_are_shown(part: Part) -> None:
    seconds = Seconds(1.0, 0.5, 0.25, 0.0, 0.25, 0.9, 0.5, 4.5)
    assert "generate\xa00.50, other\xa02.00, total\xa04.50" in part("cost")._seconds(seconds)


@pytest.mark.parametrize(
    ("columns", "locale", "table"), [("60", "en_US.UTF-8", NARROW), ("120", "C", WIDE_ASCII)]
)
def test_the_table_as_it_is_shown(
    run: Run,
    stubbed: Stubbed,
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    locale: str,
    table: str,
) -> None:
    stubbed("answered")
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LC_ALL", locale)
    assert run("ask", "a.mp4", "Q").stderr.endswith("answer\n" + table)


def test_the_page_shows_the_table_as_it_is(sample: Answer, part: Part) -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    cost = part("cost")
    lines = [cost.laid_out(*line) for line in cost.cost_lines(sample, 80, unicode=True)]
    assert "```\n" + "\n".join(lines) + "\n```\n" in page.read_text(encoding="utf-8")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(35, 200),
    layers=st.integers(0, 90),
    preset=st.text(max_size=40),
    raw=st.integers(1, 10**7),
)
def test_no_line_is_wider_than_the_terminal(
    sample: Answer, part: Part, width: int, layers: int, preset: str, raw: int
) -> None:
    tokens = replace(sample.tokens, raw=raw, per_layer=tuple(range(layers, 0, -1)))
    answer = replace(sample, tokens=tokens, preset=preset)
    cost = part("cost")
    for unicode in (True, False):
        for label, text in cost.cost_lines(answer, width, unicode=unicode):
            line = cost.laid_out(label, text)
            assert len(line) <= width
            assert unicode or preset or line.isascii()


def test_repeats_are_counted_and_reach_to_the_last_of_them(sample: Answer, part: Part) -> None:
    frames = FramesUsed(9, 2, (0.0, 3.5), (3.0, 80.0), repeats=7)
    shown = dict(part("cost").cost_lines(replace(sample, frames=frames), 100, unicode=True))
    assert shown["frames"] == "2 of 9 asked for (7 repeats skipped), from 0.00 s to 80.00 s"


def test_an_unreduced_run_is_said_to_be_one(sample: Answer, part: Part) -> None:
    flops = replace(sample.flops, ratio_llm=1.0, ratio_total=1.0, overhead=0.0)
    memory = replace(sample.memory_bytes, kv_cache_unreduced=157_000_000, device_peak=None)
    answer = replace(sample, flops=flops, memory_bytes=memory, quantize="none", generated_tokens=1)
    text = "\n".join(line for _, line in part("cost").cost_lines(answer, 120, unicode=True))
    assert text.count("as unreduced") == 3
    assert "less than" not in text
    assert "not quantised" in text
    assert "1 token generated" in text  # one token has no rate
    assert "tokens/s" not in text
    assert "device" not in text


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (1.0, "as unreduced"),
        (10.56, "10.6x less than unreduced"),
        (1.32, "1.32x less than unreduced"),
        (0.8, "1.25x of unreduced"),
        (0.0, "unknown against unreduced"),
    ],
)
def test_ratios_say_their_direction(part: Part, ratio: float, says: str) -> None:
    assert part("cost").against(ratio) == says


@pytest.mark.parametrize(
    ("counts", "width", "line"),
    [
        ([4, 4, 2, 1, 0], 10, "##=:_"),
        ([0, 0], 10, "__"),
        ([], 10, ""),
        ([100, 1], 10, "#."),  # little is not nothing
        ([8, 8, 8, 8, 0, 0], 3, "##_"),  # two layers a column
        ([8] * 7, 3, "###"),
    ],
)
def test_sparkline(part: Part, counts: list[int], width: int, line: str) -> None:
    assert part("cost").sparkline(counts, width, unicode=False) == line


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2.5 * 2**30, "2.5 GiB"),
        (5e12, "4,656.6 GiB"),
    ],
)
def test_sizes(part: Part, value: float, written: str) -> None:
    assert part("cost").size(value).replace("\u00a0", " ") == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0 FLOP"), (999, "999 FLOP"), (2.31e13, "23.1 TFLOP"), (9.996e14, "1 PFLOP")],
)
def test_quantities(part: Part, value: float, written: str) -> None:
    assert part("cost").quantity(value, "FLOP").replace("\u00a0", " ") == written
