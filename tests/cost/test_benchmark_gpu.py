"""benchmarks/gpu.py on a tiny model and a CPU: every row is there, and what it says of itself."""

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tokenreduce.engine.host import HostedLlavaOnevision
from tokenreduce.models.llava_config import read_spec
from tokenreduce.models.llava_video import host_config

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--tiny", "--device", "cpu")
CPU_REASONS = {
    "not done: the kernel is for CUDA",
    "not done: more than half of it is fixed cost",
    "not done: no more memory was seen in use than before",
}


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Callable[[str], ModuleType]]:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    try:
        yield lambda name: importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(ROOT))
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gpu(benchmarks: Callable[[str], ModuleType]) -> ModuleType:
    return benchmarks("gpu")


@pytest.fixture(scope="module")
def written(gpu: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one whole run; its films lie beside it."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    films = ("--folder", str(path.parent))
    assert gpu.main([*SMALL, *films, "--output", str(path), "--commit", "abc"]) == 0
    return path


def sections(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())["result"])


def test_every_row_of_every_section_has_a_figure(
    gpu: ModuleType, benchmarks: Callable[[str], ModuleType], written: Path
) -> None:
    rows, found = benchmarks("gpu_rows"), sections(written)
    assert list(found) == list(gpu.SECTIONS)
    assert set(gpu.SECTIONS) == set(rows.SECTIONS)
    for name, section in found.items():
        assert (section["commit"], section["tiny"], section["card"]) == (
            "abc",
            True,
            {"name": "cpu"},
        )
        assert section["rows"].keys() == {row.key for row in rows.rows_of(name)}
        for key, row in section["rows"].items():
            figure = row["figure"]
            if isinstance(figure, str):
                assert figure in CPU_REASONS, (name, key)
            else:
                assert math.isfinite(figure), (name, key)
                # A process that has freed more than that before shows no peak on a CPU.
                assert figure > 0 or (key.endswith("_peak") and figure == 0), (name, key)
    json.dumps(found, allow_nan=False)


def test_what_is_compared_is_what_it_says(written: Path) -> None:
    found = sections(written)
    bf16 = found["prefill-bf16"]["details"]
    # 4 frames of 4 x 4 tokens and 4 newlines; a quarter of them is left.
    assert bf16["visual"] == {"plain": 80, "reduced": 20, "plain, times": 80, "reduced, times": 20}
    assert bf16["text"]["plain"] == bf16["text"]["reduced"] == 100
    assert bf16["text"]["plain, times"] > 150  # the time instruction
    assert bf16["flops_ratio"] > bf16["causal_flops_ratio"] > 1
    for name in ("prefill-bf16", "prefill-nf4"):
        timed = found[name]["details"]["seconds"]
        # Prefill against prefill, generate against generate.
        assert set(timed) == {*bf16["visual"], "plain, generate", "reduced, generate"}
        assert found[name]["details"]["first call, seconds"].keys() == timed.keys()
    assert found["prefill-nf4"]["rows"]["fixed_launches"]["figure"] == 4 * 7
    decode = found["decode"]["details"]
    assert decode["visual_per_layer"][0] == 20 > decode["visual_per_layer"][-1]
    assert decode["decoding"]["stock"]["road"] == "stock"
    assert decode["decoding"]["slots"]["road"] == "slots"
    shares = {key: row["figure"] for key, row in found["first-token"]["rows"].items()}
    for frames in (64, 128, 192):
        parts = [shares[f"{part}_share_{frames}"] for part in ("decode", "encode", "prefill")]
        assert sum(parts) == pytest.approx(1)
    assert found["longest"]["details"]["sampled"] in (20, 21)  # a frame a second of 20 s
    tried = found["small"]["details"]["budget"]["tried"]
    assert tried == {"160": True}  # all that 8 frames have
    assert {"kernel", "seconds", "calls"} == found["profile"]["details"]["prefill"]["top"][0].keys()
    predicted = found["prediction"]["details"]
    assert list(predicted["ratio"]) == [
        "none, 4 frames, its own budget",
        "balanced, 8 frames, its own budget",
        "balanced, 2 frames, budget 20",
        "aim, 4 frames, budget 20",
    ]
    for end in ("worst_over", "worst_under"):
        case = predicted[end]
        assert predicted["ratio"][case] == found["prediction"]["rows"][end]["figure"]
        assert case.startswith(predicted[case]["preset"])


def test_what_this_commit_has_is_not_measured_again(
    gpu: ModuleType,
    written: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, measured = written.read_text(), []
    fresh = sections(written)["peak"]

    def measure(bench: object) -> tuple[dict[str, float], dict[str, float]]:
        measured.append("peak")
        return dict.fromkeys(fresh["rows"], 0.5), {}

    monkeypatch.setattr(
        gpu, "SECTIONS", {**gpu.SECTIONS, "peak": gpu.Section(measure, minutes=0.1)}
    )
    output = ("--output", str(written), "--resume")
    assert gpu.main([*SMALL, *output, "--commit", "abc"]) == 0
    assert capsys.readouterr().out.count("there already") == len(gpu.SECTIONS)
    assert (measured, written.read_text()) == ([], before)
    for commit in ("def", "def-dirty", "def-dirty"):  # changed files are no commit
        assert gpu.main([*SMALL, *output, "--commit", commit, "--sections", "peak"]) == 0
    assert measured == ["peak"] * 3
    after = sections(written)
    assert after["peak"]["commit"] == "def-dirty"
    assert after["decode"]["commit"] == "abc"
    written.write_text(before)


@pytest.mark.parametrize("failure", [ZeroDivisionError("0"), torch.OutOfMemoryError("all gone")])
def test_a_section_that_fails_stops_no_other(
    gpu: ModuleType,
    benchmarks: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
) -> None:
    rows = benchmarks("gpu_rows")

    def broken(bench: object) -> tuple[Mapping[str, float], dict[str, Any]]:
        raise failure

    def whole(bench: object) -> tuple[Mapping[str, float], dict[str, Any]]:
        return {row.key: 1.0 for row in rows.rows_of("peak")}, {}

    made = {"decode": gpu.Section(broken, 0.1), "peak": gpu.Section(whole, 0.1)}
    monkeypatch.setattr(gpu, "SECTIONS", made)
    path = tmp_path / "gpu.json"
    ended = gpu.main([*SMALL, "--output", str(path)])
    if isinstance(failure, torch.OutOfMemoryError):
        assert ended == 0
        figures = {row["figure"] for row in sections(path)["decode"]["rows"].values()}
        assert figures == {"does not fit"}
    else:
        assert ended == 1
        assert list(sections(path)) == ["peak"]
        assert "decode: came to no end" in capsys.readouterr().err


def test_without_bitsandbytes_a_section_says_so(
    gpu: ModuleType,
    benchmarks: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmarks("random_model"), "find_spec", lambda _: None)
    path = tmp_path / "gpu.json"
    assert gpu.main([*SMALL, "--output", str(path), "--sections", "decode,importance"]) == 0
    found = sections(path)
    why = {row["figure"] for row in found["decode"]["rows"].values()}
    assert why == {"not done: quantize nf4: bitsandbytes is not installed; use none"}
    assert found["decode"]["rows"]["speedup"]["met"] is None
    assert "NOT MET" not in gpu.table("decode", found["decode"])
    assert found["importance"]["rows"]["share_6k"]["figure"] > 0


def test_no_section_is_begun_that_would_not_end_in_time(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--minutes", "0.1", "--output", str(path)]) == 0
    assert capsys.readouterr().out.count("not begun") == len(gpu.SECTIONS)
    assert not path.exists()
    assert sum(section.minutes for section in gpu.SECTIONS.values()) <= 9.2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_machine_without_a_gpu_is_told(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--sections", "decode"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_a_card_that_is_not_there_is_told(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu.missing(torch.device("cuda")) is None
    assert gpu.missing(torch.device("cuda:1")) is None
    assert gpu.missing(torch.device("cuda:2")) == "--device cuda:2: the last card here is cuda:1"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--device", "foo"], "'foo' is none; give cuda, cuda:N or cpu"),
        (["--device", "mps"], "'mps' is none; give cuda, cuda:N or cpu"),
        (["--sections", "peak,pek"], "no such section: pek; there are prefill-bf16,"),
        (["--sections", " , "], "no section is named; there are prefill-bf16,"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(given)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_sections_may_stand_apart_and_the_help_names_them(
    gpu: ModuleType, benchmarks: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    options, every = benchmarks("gpu_options"), list(gpu.SECTIONS)
    given = ["--sections", " peak, decode ,"]
    assert options.parse(given, None, every, gpu.RESULT).sections == ["peak", "decode"]
    assert options.parse([], None, every, gpu.RESULT).sections == every
    with pytest.raises(SystemExit):
        gpu.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    # argparse may break a line after a hyphen of a name.
    assert "".join(f"some of: {', '.join(every)}".split()) in told.replace(" ", "")


def test_a_card_into_which_nothing_fits(gpu: ModuleType, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    options = ("--output", str(path), "--stand-in", "1e-9", "--sections", "small")
    films = ("--folder", str(written.parent))
    assert gpu.main([*SMALL, *options, *films]) == 0
    found = sections(path)
    assert {row["figure"] for row in found["small"]["rows"].values()} == {"does not fit"}
    assert found["small"]["rows"]["budget"]["met"] is False


def test_a_cuda_card_is_stood_in_for(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fraction that a card of so many GiB is of this one, and all of it again afterwards."""
    shared = benchmarks("gpu_bench")
    fractions: list[float] = []
    there = SimpleNamespace(total_memory=32 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: there)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def limit(share: float, device: torch.device) -> None:
        assert device.index is not None  # torch raises ValueError without
        fractions.append(share)

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    card = benchmarks("gpu").indexed(torch.device("cuda"))
    bench = shared.Bench(card, benchmarks("gpu_scale").TINY, tmp_path)
    with pytest.raises(torch.OutOfMemoryError), bench.card(8.75):
        raise torch.OutOfMemoryError("8 GiB are all there is")
    with bench.card(16, minus_driver=False):
        pass
    assert fractions == [0.25, 1.0, 0.5, 1.0]
    assert benchmarks("gpu").indexed(torch.device("cpu")) == torch.device("cpu")
    assert benchmarks("gpu").indexed(torch.device("cuda", 1)).index == 1
    with pytest.raises(shared.NotDone, match=r"this card has 32\.0 GiB"), bench.card(40):
        pass


def test_a_profile_of_a_gpu_counts_each_kernel_once(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the host's operations each is told the time of its kernels too."""
    profiles, shared = benchmarks("gpu_profile"), benchmarks("gpu_bench")

    def event(name: str, device: str, micro: float) -> SimpleNamespace:
        kind = SimpleNamespace(name=device)
        return SimpleNamespace(key=name, device_type=kind, self_device_time_total=micro, count=3)

    class Taken:
        def __init__(self, activities: list[object]) -> None:
            assert len(activities) == 2

        def __enter__(self) -> "Taken":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def key_averages(self) -> list[SimpleNamespace]:
            kernels = [event("copy", "CUDA", 1e6), event("gemm", "CUDA", 2e6)]
            return [event("aten::mm", "CPU", 2e6), *kernels]

    monkeypatch.setattr(profiles, "profile", Taken)
    monkeypatch.setattr(shared.memory, "synchronise", lambda _: None)
    bench = shared.Bench(torch.device("cuda"), benchmarks("gpu_scale").TINY, tmp_path)
    found = profiles.summary(bench, lambda: None)
    assert found["top"] == [
        {"kernel": "gemm", "seconds": 2.0, "calls": 3},
        {"kernel": "copy", "seconds": 1.0, "calls": 3},
    ]
    assert (found["busy_seconds"], found["calls"]) == (3.0, 6)


def test_the_largest_budget_is_found(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory, shared = benchmarks("gpu_memory"), benchmarks("gpu_bench")
    bench = shared.Bench(torch.device("cpu"), benchmarks("gpu_scale").FULL, tmp_path)
    monkeypatch.setattr(memory, "_most", lambda *_: 30_000)
    monkeypatch.setattr(memory, "_fits", lambda *of: of[-1] <= 7100)
    tried: dict[int, bool] = {}
    found = memory._largest(bench, None, 8.0, tried)
    assert 7100 - bench.scale.small_step < found <= 7100
    assert len(tried) <= 11


def test_each_size_of_the_grid_meets_the_default_preset_and_aim(
    benchmarks: Callable[[str], ModuleType],
) -> None:
    memory, full = benchmarks("gpu_memory"), benchmarks("gpu_scale").FULL
    whole, default, *grid = memory.cases(full, lambda frames: 210 * frames)
    assert (whole.preset, whole.frames, whole.budget) == ("none", 64, None)
    assert (default.preset, default.frames, default.budget) == ("balanced", 128, None)
    sizes = [(16, 2000)] + [(f, b) for f in (64, 256) for b in (2000, 6000, 12_000)]
    assert [(case.frames, case.budget) for case in grid] == sizes  # what 16 frames do not have
    both = {"balanced", "aim"}
    for frames in (64, 256):
        assert {case.preset for case in grid if case.frames == frames} == both
    for budget in full.grid_budgets:
        assert {case.preset for case in grid if case.budget == budget} == both
    assert grid[-1].preset == "balanced"  # the largest


def test_what_is_foreseen_is_what_is_run(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Case by case the same plan, with the preset's own merging and choosing."""
    memory, shared = benchmarks("gpu_memory"), benchmarks("gpu_bench")
    bench = shared.Bench(torch.device("cpu"), benchmarks("gpu_scale").TINY, tmp_path)
    run: list[Any] = []
    foreseen: list[Any] = []

    def see(_decoder: object, _model: object, _about: object, plan: Any, _clock: object) -> Any:
        run.append(plan)
        return SimpleNamespace(prunes=plan.prunes)

    def of_plan(_spec: object, plan: Any, **_: object) -> Any:
        foreseen.append(plan)
        return SimpleNamespace(stages=[SimpleNamespace(name="decode", total=1, parts=())])

    monkeypatch.setattr(shared, "see", see)
    monkeypatch.setattr(shared.Bench, "prompt", lambda *_: None)
    monkeypatch.setattr(shared.Bench, "generated", lambda *_: None)
    monkeypatch.setattr(memory, "of_plan", of_plan)
    memory.prediction(bench)
    ways = [
        [type(method).__name__ for method in (plan.merge, *(p.method for p in plan.prunes))]
        for plan in run
    ]
    drift, aim = ["DriftMerge", "AskPrune"], ["AimMerge", "AimPrune"]
    assert ways == [["NoneType"], drift, drift, aim]
    assert run == foreseen


def test_what_a_compiler_raises_costs_its_own_figures_alone(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decode = benchmarks("gpu_decode")

    def broken(*_: object) -> Callable[[object], object]:
        def see(_: object) -> object:
            raise OSError("no C compiler\nand much more")

        return see

    monkeypatch.setattr(decode, "_compiled", broken)
    scale = replace(benchmarks("gpu_scale").TINY, batches=(1, 2, 3))
    bench = benchmarks("gpu_bench").Bench(torch.device("cpu"), scale, tmp_path)
    figures, _ = decode.tower(bench)
    assert all(figures[f"eager_{size}"] > 0 for size in (8, 16, 32))
    assert {figures[f"compiled_{size}"] for size in (8, 16, 32)} == {
        "not done: OSError: no C compiler and much more"
    }


def test_the_kernel_is_timed_against_plain_torch(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the plain form in its place, where there is no GPU."""
    prefill, shared = benchmarks("gpu_prefill"), benchmarks("gpu_bench")
    bench = shared.Bench(torch.device("cpu"), benchmarks("gpu_scale").TINY, tmp_path)
    model = bench.model("none")
    monkeypatch.setattr(shared.Bench, "on_gpu", True)
    monkeypatch.setattr(prefill, "find_spec", lambda _: object())
    monkeypatch.setattr(prefill, "importance_fused", prefill.importance_plain)
    figure, details = prefill.kernel(bench, model, 64)
    assert figure > 0
    assert set(details) == {"plain", "kernel", "first call, seconds"}

    def broken(_: object) -> None:
        raise RuntimeError("no image for this device")

    monkeypatch.setattr(prefill, "importance_fused", broken)
    found = prefill.kernel(bench, model, 64)
    assert found == ("not done: RuntimeError: no image for this device", {})


def test_next_to_nothing_beside_the_fixed_cost_is_no_ratio(
    benchmarks: Callable[[str], ModuleType],
) -> None:
    prefill = benchmarks("gpu_prefill")
    plain, reduced = [{"seconds": 9.0}], [{"seconds": 3.0}]
    assert prefill.ratio(plain, reduced, 1.0) == 4
    assert prefill.outweighs(reduced, 1.5)
    assert not prefill.outweighs(reduced, 1.6)


def test_rows_are_judged(benchmarks: Callable[[str], ModuleType]) -> None:
    rows = benchmarks("gpu_rows")
    ours = {"stock": 10.0, "slots": 20.0, "speedup": 2.0}
    assert rows.judged("decode", ours)["speedup"]["met"] is True
    assert rows.judged("decode", {**ours, "speedup": 1.99})["speedup"]["met"] is False
    assert rows.judged("decode", {**ours, "speedup": "does not fit"})["speedup"]["met"] is False
    assert rows.judged("decode", ours)["stock"]["met"] is None
    # Of what this machine cannot do nothing is known; a failure of what is measured is one.
    absent, failed = f"{rows.NOT_DONE}no library", f"{rows.NO_GRAPHS}a step failed"
    assert rows.judged("decode", {**ours, "speedup": absent})["speedup"]["met"] is None
    assert rows.judged("decode", {**ours, "speedup": failed})["speedup"]["met"] is False
    with pytest.raises(ValueError, match="differ in slots"):
        rows.judged("decode", {"stock": 1.0, "speedup": 1.0})
    with pytest.raises(ValueError, match="stock is nan"):
        rows.judged("decode", {**ours, "stock": math.nan})


def test_the_page_is_what_was_measured(
    benchmarks: Callable[[str], ModuleType], written: Path
) -> None:
    page = benchmarks("gpu_page")
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renewed(text, page.read(page.RESULT)) == text
    assert page.read(written) == {}  # a tiny model's figures are never shown
    real = {**sections(written)["decode"], "tiny": False}
    real["rows"]["speedup"] = {"wanted": ">= 2 x", "figure": 1.5, "met": False}
    shown = page.renewed(text, {"decode": real})
    assert "| >= 2 x | 1.5 x | **not met** |" in shown
    assert "| `decode` | 2" in shown  # and its date
    assert "No section has been run" not in shown
    assert page.renewed(shown, {}) == page.renewed(text, {})


def test_the_random_model_has_the_real_ones_sizes(
    benchmarks: Callable[[str], ModuleType],
) -> None:
    random = benchmarks("random_model")
    config = random.CONFIGS["7b"]
    spec = read_spec("7b", config, {})
    assert spec.layout(64).available == 64 * 210
    kind: Any = HostedLlavaOnevision
    with torch.device("meta"):
        host = kind(host_config("7b", config))
    count = sum(parameter.numel() for parameter in host.model.language_model.parameters())
    # Qwen/Qwen2-7B-Instruct's own 7,615,616,512, with its output layer.
    assert count + host.lm_head.weight.numel() == 7_615_616_512
    tower = sum(parameter.numel() for parameter in host.model.vision_tower.parameters())
    layer = 4 * (1152 * 1152 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
    assert tower == 26 * layer + 3 * 14 * 14 * 1152 + 1152 + 729 * 1152 + 2 * 1152


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_the_random_model_answers_until_it_is_stopped(
    benchmarks: Callable[[str], ModuleType], quantize: str
) -> None:
    random = benchmarks("random_model")
    cpu = torch.device("cpu")
    model = random.make("tiny", cpu, torch.float32, quantize)
    tensors = [*model.host.parameters(), *model.host.buffers()]
    assert not any(tensor.is_meta for tensor in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors)
    again = random.make("tiny", cpu, torch.float32, quantize)
    frames = torch.arange(98 * 98 * 3).remainder(251).to(torch.uint8).view(1, 98, 98, 3)
    assert torch.equal(model.encode(frames), again.encode(frames))
    text = random.time_text(60, [index * 0.93 for index in range(64)])
    # As Qwen2 does it: one for each digit, point, s and comma, and one a word.
    assert 64 * 6 < len(model.chat.plain(text)) < 64 * 7 + 60
    assert len(model.chat.plain("#" * 50)) == 50
