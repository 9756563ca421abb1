"""benchmarks/methods.py on tiny sizes: it runs for every method; shares are what they say."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tokenreduce import cost, overhead
from tokenreduce.budget import Layout
from tokenreduce.methods import METHODS
from tokenreduce.methods.visionzip import VisionZip

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--size", "tiny", "--frames", "18", "--llm-frames", "2", "--text", "10"]


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield importlib.import_module("benchmarks.methods")
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_method_at_every_site_it_has_after_the_encoder(
    methods: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """18 frames: more than are reduced together."""
    assert methods.main([*TINY, "--repeats", "1", "--no-peaks"]) == 0
    result = json.loads(capsys.readouterr().out)
    before, inside = result["18 frames before the LLM"], result["2 frames inside the LLM"]
    sites = {f"{name}/{site}" for name, kind in METHODS.items() for site in kind().sites}
    assert set(before) == {key for key in sites if key.endswith(("/frames", "/clip"))}
    assert set(inside) == {key for key in sites if key.endswith("/llm")}
    assert before["aim-merge/frames"]["times_aim_merge"]["median"] == 1
    for one in [*before.values(), *inside.values()]:
        assert one["time_share"]["median"] > 0
        assert one["saved_prefill_flops"] > 0
        assert one["runs_in_a_prefill"] >= 1


def test_shares_are_of_what_the_prefill_is_spared(methods: ModuleType) -> None:
    cases = importlib.import_module("benchmarks.methods_cases")
    bench = cases.Bench(cases.Setup("tiny", 4, 2, 10, "cpu", "float32", 1))
    text, own = bench.setup.text, bench.own(cases.Case("visionzip", "frames"))
    whole, left = (cost.llm_cost(text, [n] * 4, 10).total for n in (840, 210))
    assert own.saved == whole - left
    vision, layout = bench.setup.vision, Layout(4, 14, 14, "grid")
    ours = overhead.before_llm(VisionZip(), (vision, text), layout, 210).total
    assert own.evidence == 4 * overhead.shown(VisionZip(), vision).total
    assert own.method + own.evidence == ours
    taken = {"cpu_seconds": 3.0, "wall_seconds": 9.0}
    product = {"cpu_seconds": 2.0, "wall_seconds": 9.0}
    case = cases.Case("visionzip", "frames")
    figures = methods._figures(bench, case, {case.key: [taken], "product": [product]}, {})
    rate = bench.product_operations / 2.0
    assert figures["time_share"].median == pytest.approx(3.0 / (own.saved / rate))


@pytest.mark.parametrize(
    ("name", "site", "left"),
    [("aim-merge", "frames", 4 * 49), ("aim-merge", "clip", 4 * 49), ("fastv", "llm", 196)],
)
def test_what_is_timed_leaves_a_quarter_or_what_the_schedule_says(
    methods: ModuleType, name: str, site: str, left: int
) -> None:
    """FastV: half of two frames."""
    cases = importlib.import_module("benchmarks.methods_cases")
    bench = cases.Bench(cases.Setup("tiny", 4, 2, 10, "cpu", "float32", 1))
    assert bench.run(cases.Case(name, site)) == left


def test_inside_the_llm_every_layer_that_reduces_is_counted(methods: ModuleType) -> None:
    cases = importlib.import_module("benchmarks.methods_cases")
    bench = cases.Bench(cases.Setup("7b", 4, 32, 100, "cpu", "float32", 1))
    times = {name: bench.own(cases.Case(name, "llm")).times for name in ("fastv", "aim-prune")}
    assert times["fastv"] == 1
    # Seven of eight steps of the ramp score something, ever fewer tokens: (1 + .77 + .57 + ...).
    assert times["aim-prune"] == pytest.approx(sum((i / 8) ** 2 for i in range(2, 9)), rel=0.05)
    assert bench.own(cases.Case("random", "llm")).times == 8


@pytest.mark.slow
def test_peak_memory_of_a_method(methods: ModuleType) -> None:
    """At least what it returns: 49 of 196 tokens of each of 64 frames."""
    cases = importlib.import_module("benchmarks.methods_cases")
    setup = cases.Setup("tiny", 64, 2, 10, "cpu", "float32", 1)
    try:
        peak = methods._peak_in_fresh_process(setup, cases.Case("aim-merge", "frames"))
    except RuntimeError as refused:
        if "on Linux only" not in str(refused):
            raise
        pytest.skip("peak memory of a CPU run can be measured on Linux only")
    assert peak >= 64 * 49 * 64 * 4
