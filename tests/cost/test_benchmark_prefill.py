"""benchmarks/prefill.py on a tiny model: it runs, and what it compares is what it says it is."""

import importlib
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.engine.host import read_prompt
from tokenreduce.engine.types import Plan, Prefilled, Prompt, Prune
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.schedule import Once, Schedule
from tokenreduce.tokens import Tokens

ROOT = Path(__file__).resolve().parents[2]
CASES = ["plain", "merged", "pruned", "merged_pruned", "merged_masked", "drift"]
TINY = ["--size", "tiny", "--frames", "2", "--text", "10"]


@pytest.fixture
def prefill(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield importlib.import_module("benchmarks.prefill")
    torch.set_num_threads(threads)


def test_all_cases_are_compared_with_plain(
    prefill: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prefill.main([*TINY, "--repeats", "2", "--no-peaks"]) == 0
    result = json.loads(capsys.readouterr().out)
    cases = result["cases"]
    assert list(cases) == CASES
    assert result["compared_with"] == "plain"
    assert cases["plain"]["speedup"]["median"] == cases["plain"]["flops_ratio"] == 1
    assert cases["merged_pruned"]["visual_per_layer"] == [98, 98, 98, 12]
    assert cases["merged_masked"]["visual_per_layer"] == [98] * 4
    assert cases["merged_pruned"]["flops_ratio"] > cases["merged"]["flops_ratio"] > 1
    for name in CASES:
        assert cases[name]["cpu_seconds"]["runs"] == 2
        assert (cases[name]["importance_share"] > 0) is (name not in {"plain", "merged"})
        assert (cases[name]["overhead_flops"] > 0) is (name != "plain")


def test_peak_memory_of_a_case(prefill: ModuleType) -> None:
    """At least the embeddings that a run makes of its inputs."""
    cases = importlib.import_module("benchmarks.prefill_cases")
    setup = cases.Setup("tiny", 4, 16, 10, "cpu", "float32", 1)
    try:
        peak = prefill._peak_in_fresh_process(setup, "plain")
    except RuntimeError as refused:
        if "on Linux only" not in str(refused):
            raise
        pytest.skip("peak memory of a CPU run can be measured on Linux only")
    assert peak >= (16 * 196 + 10) * 64 * 4


def test_masking_is_removing_for_one_choice_of_tokens(prefill: ModuleType) -> None:
    """The rival is a fair one: pruned once, it gives the logits of the engine."""
    cases = importlib.import_module("benchmarks.prefill_cases")
    masked = importlib.import_module("benchmarks.masked")
    setup = cases.Setup("tiny", 4, 1, 10, "cpu", "float32", 1)
    bench = cases.Bench.build(setup)
    visual = bench.features.reshape(1, -1, 64)
    embeds = torch.cat([bench.text[:, :5], visual, bench.text[:, 5:]], dim=1)
    places = torch.arange(5, 5 + visual.shape[1])
    schedule: Schedule = Once(Fraction(1, 4), Fraction(1, 3))
    done: list[Prefilled] = []
    plan = Plan(
        Prompt(embeds, places, Tokens.fresh(visual), Layout(1, 14, 14)),
        [Prune(AimPrune(), schedule)],
        0,
        done.append,
    )
    with torch.no_grad():
        theirs, cache, _ = masked.prefill(bench.model, embeds, places, schedule, cases.clock)
        assert cache.get_seq_length(3) == embeds.shape[1]
        cases.prepare(bench.model)
        ours = read_prompt(bench.model, plan, DynamicCache())
    assert ours.per_layer == (196, 196, 65, 65)
    torch.testing.assert_close(ours.logits, theirs, atol=1e-5, rtol=1e-4)
