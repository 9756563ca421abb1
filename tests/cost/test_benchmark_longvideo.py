"""benchmarks/longvideo.py, asking_again.py and needles.py on seconds of film, tiny models and a
stand-in for the command: they run, and what they compare is what they say it is."""

import importlib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
STILL = 9  # of the seed 31415, a scene in which two stars are all that changes
linux_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def longvideo(checkout: None) -> ModuleType:
    return importlib.import_module("benchmarks.longvideo")


@linux_only
def test_a_family_is_measured_member_by_member(checkout: None) -> None:
    family = importlib.import_module("benchmarks.family")
    child = "import time; x = bytearray(b'x') * (96 << 20); time.sleep(1)"
    code = f"""
        import subprocess, sys, time
        x = bytearray(b"x") * (48 << 20)
        while time.process_time() < 1: pass
        subprocess.run([sys.executable, "-I", "-S", "-c", {child!r}])
        print("out"); sys.exit(3)
    """
    run = family.run_family([sys.executable, "-I", "-S", "-c", textwrap.dedent(code)])
    assert (run.returncode, run.stdout, run.stderr) == (3, "out\n", "")
    assert 48 * MIB <= run.main_peak_bytes < 90 * MIB
    assert 96 * MIB <= run.child_peak_bytes < 140 * MIB
    assert 144 * MIB <= run.both_peak_bytes <= run.main_peak_bytes + run.child_peak_bytes
    assert run.cpu_seconds >= 1 > 2 * run.child_cpu_seconds
    assert run.wall_seconds >= 2


STAND_IN = """
    import json, os, pathlib, sys, time
    verb, film, *rest = sys.argv[1:]
    minutes = float(pathlib.Path(film).stem.split("-")[1])
    assert verb == "ask" and pathlib.Path(film).stat().st_size and "--json" in rest
    assert ("--no-cache" in rest) != ("TOKENREDUCE_CACHE" in os.environ)
    held = bytearray(b"x") * round(minutes * 200e6)
    time.sleep(.25)  # long enough to be looked at
    cache = pathlib.Path(os.environ.get("TOKENREDUCE_CACHE", "no/such"))
    sampled = 1 + round(minutes * 60)
    encoded = 1 if "auto" in rest else sampled
    asked = rest.count("-q") or 1
    for number in range(asked):
        paid = number or cache.exists()
        seconds = dict.fromkeys(("load", "reduce", "prefill", "generate", "digest"), .5)
        seconds |= {"decode": 0 if paid else sampled * .5, "encode": 0 if paid else sampled * .25}
        seconds["first_token"] = seconds["total"] = sum(seconds.values())
        print(json.dumps({
            "answer": "red", "tokens": {"merged": 7}, "seconds": seconds,
            "frames": {"decoded": encoded, "repeats": sampled - encoded,
                       "source": "cache" if paid else "decoded"}}))
    if "TOKENREDUCE_CACHE" in os.environ:
        cache.mkdir(exist_ok=True)
"""


def measured(
    longvideo: ModuleType, capsys: pytest.CaptureFixture[str], folder: Path, *options: str
) -> dict[str, Any]:
    script = folder / "stand_in.py"
    script.write_text(textwrap.dedent(STAND_IN))
    command = f"{sys.executable} -I -S {script}"
    small = ["--size", "96", "64", "--repeats", "1", "--minutes", "0.4", "0.5", "0.7"]
    where = ["--folder", str(folder), "--command", command]
    assert longvideo.main([*small, *where, *options]) == 0
    out, decoder = capsys.readouterr().out, json.JSONDecoder()
    found: dict[str, Any] = {}
    while out.strip():
        one, end = decoder.raw_decode(out.lstrip())
        found |= one
        out = out.lstrip()[end:]
    return found


@linux_only
def test_memory_and_time_are_compared_by_length(
    longvideo: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--sections", "memory,frames", "--presets", "balanced")
    found = measured(longvideo, capsys, tmp_path, *options)
    memory = found["memory"]["measured"]["busy, balanced"]
    shortest, longest = (memory["by_minutes"][minutes] for minutes in ("0.4", "0.7"))
    assert longest["sum_of_peaks_bytes"] - shortest["sum_of_peaks_bytes"] >= 50e6
    assert memory["peak_ratio"] > 1.1  # the stand-in's memory grows with the film
    assert memory["met"] is found["memory"]["met"] is False
    still = found["memory"]["measured"]["static, balanced, skip auto"]["by_minutes"]["0.7"]
    assert (still["encoded"], still["repeats"], still["sampled"]) == (1, 42, 43)
    frames = found["frames"]["measured"]
    assert frames["ratio"]["inside_seconds"]["median"] == pytest.approx(1)
    assert frames["per_frame"]["busy 0.7"]["inside_seconds"]["median"] == pytest.approx(0.75)
    assert set(frames["runs"]) == {"busy 0.333333", "busy 0.4", "busy 0.7", "static 0.5"}


@linux_only
def test_further_questions_are_compared_with_the_first(
    longvideo: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = measured(longvideo, capsys, tmp_path, "--sections", "questions")["questions"]
    second = found["measured"]["second"]["as preset"]
    sampled = 1 + round(0.4 * 60)
    assert second["with_load"]["median"] == pytest.approx((2.5 + sampled * 0.75) / 2.5)
    assert second["without_load"]["median"] == pytest.approx((2 + sampled * 0.75) / 2.5)
    assert second["parts_alone"]["median"] == pytest.approx((1.5 + sampled * 0.75) / 2.5)
    assert found["met"] is False
    assert found["measured"]["from_cache"]["fps 1"]["inside_seconds"]["median"] == 2.5


@linux_only
def test_sections_are_merged_into_the_result(
    longvideo: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(longvideo.record, "RESULTS", tmp_path)
    written = tmp_path / "longvideo.json"
    written.write_text('{"result": {"questions": 1, "memory": 2}}')
    measured(longvideo, capsys, tmp_path, "--sections", "questions", "--save")
    record = json.loads(written.read_text())
    assert list(record["result"]) == ["memory", "questions"] == record["arguments"]["sections"]
    assert record["result"]["memory"] == 2
    assert {"commit", "date", "arguments", "met"} <= record["result"]["questions"].keys()


def test_a_command_that_fails_is_one_line(
    longvideo: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = f"{sys.executable} -c 'raise SystemExit(\"no demo here\")'"
    short = ["--minutes", "0.3", "--size", "96", "64", "--folder", str(tmp_path)]
    assert longvideo.main([*short, "--sections", "questions", "--command", command]) == 1
    said = "benchmarks.longvideo: questions: ask exited with 1: no demo here\n"
    assert capsys.readouterr().err == said


@linux_only
def test_overlap_compares_with_each_part_alone(checkout: None, tmp_path: Path) -> None:
    parts = importlib.import_module("benchmarks.longvideo_parts")
    setup = parts.Setup(tmp_path, minutes=(0.5,), size=(96, 64), repeats=1)
    found = parts.overlap(setup)["measured"]
    assert found["frames"] == 40  # films are whole turns of 20 s
    both, cores = found["both"], found["cores"]
    assert both["cpu_seconds"].median > found["decode"]["cpu_seconds"].median > 0
    bound = max(
        found["decode"]["wall_seconds"].median,
        found["encode"]["wall_seconds"].median,
        both["cpu_seconds"].median / cores,
    )
    assert found["bound_seconds"].median == bound
    assert found["ratio"].median == both["wall_seconds"].median / bound


@pytest.mark.slow
def test_a_further_question_reads_what_is_new(
    checkout: None, capsys: pytest.CaptureFixture[str]
) -> None:
    again = importlib.import_module("benchmarks.asking_again")
    assert again.main(["--size", "tiny", "--frames", "2", "--repeats", "2"]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]["2 frames"]
    assert list(cases) == ["AIM's ramp", "balanced's once", "drift's usual", "nothing pruned"]
    for case in cases.values():
        assert case["logits_differ_by"] <= 1e-5
        assert case["kept"]["positions"] == case["visual_tokens"] + 80 + 24
        assert 0 < case["flops_ratio"] < 1
        assert case["further_over_full"]["runs"] == case["full"]["cpu_seconds"]["runs"] == 2
    layers = [case["kept"]["layers"] for case in cases.values()]
    assert layers[-1] == 4 > layers[1] > layers[2]


def test_hours_show_their_stars_for_58_seconds(checkout: None) -> None:
    films = importlib.import_module("benchmarks.needles_clips")
    stars = 0
    for index in range(8):
        scene, rate, asked = films.film("hour", 31_415, index)
        assert (scene.duration, rate) == (3600, 1)
        assert {question.kind for question in asked} <= set(films.questions.NEEDLES)
        assert asked
        for star in scene.stars:
            assert 0 <= star.appears < star.vanishes <= 3600
            assert sum(star.visible(second) for second in range(3600)) == 58
            # So 64 frames, spread evenly, always show it.
            assert any(star.visible(round(i * 3599 / 63)) for i in range(64))
        stars += len(scene.stars)
    assert stars > 3
    for group, moving in (("static", 0), ("busy", films.BUSY)):
        scene = films.film(group, 31_415, 3)[0]
        assert sum(t.direction != "still" for t in scene.things) >= moving
        assert (group == "busy") or {t.direction for t in scene.things} == {"still"}


def test_needles_are_asked_and_summed_up(
    checkout: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty seconds instead of an hour, three ways of asking, no row asked twice."""
    needles = importlib.import_module("benchmarks.needles")
    films = importlib.import_module("benchmarks.needles_clips")
    monkeypatch.setattr(needles, "film", lambda *_: films.hour(31_415, STILL, 20.0))
    monkeypatch.setattr(needles.asking, "code_of", lambda _: "code")
    only = "hour/aim/64 frames|hour/aim/256 frames, skip"
    about = needles.Asking(31_415, 1, 1, only, "demo", tmp_path)
    needles.run(about)
    (rows,) = tmp_path.glob("rows-*.jsonl")
    before = rows.read_text()
    needles.run(about)
    assert rows.read_text() == before
    assert not list(tmp_path.glob("*.mp4"))
    found = needles.result(about)
    ways = {one["way"]: one for one in found["hours"]}
    assert list(ways) == ["64 frames", "64 frames, no times", "256 frames, skip auto"]
    whole = ways["64 frames"]
    assert (whole["claimed"], ways["64 frames, no times"]["claimed"]) == (True, False)
    assert (whole["frames"], whole["clips"]) == (20, 1)
    marks = [answer["correct"] for answer in json.loads(before.splitlines()[0])["answers"]]
    assert whole["all"]["value"] == pytest.approx(sum(marks) / len(marks))
    assert found["best"] == whole["all"]["value"]
    skipped = ways["256 frames, skip auto"]
    assert 0 < skipped["repeats"] == 20 - skipped["frames"]


def test_repeats_are_compared_question_by_question(
    checkout: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needles = importlib.import_module("benchmarks.needles")
    monkeypatch.setattr(needles, "CLIPS", {"hour": 2, "static": 2, "busy": 2})
    monkeypatch.setattr(needles.asking, "code_of", lambda _: "code")
    marks = {"off": [[1, 1, 0], [1]], "auto": [[0, 1, 1], [0]]}
    with (tmp_path / "rows-1.jsonl").open("w") as file:
        for skip, clips in marks.items():
            for index, clip in enumerate(clips):
                answers = [{"kind": "color", "correct": bool(mark)} for mark in clip]
                name = f"static/balanced/default, skip {skip}"
                row = {"setting": name, "index": index, "code": "code", "answers": answers}
                row |= {"frames": 32 if skip == "off" else 4, "tokens": 336}
                file.write(json.dumps(row) + "\n")
    found = needles.result(needles.Asking(1, 2, 1, "", "demo", tmp_path))
    (one,) = found["repeats"]
    assert (one["off"]["value"], one["auto"]["value"]) == (0.75, 0.5)
    assert one["difference"]["value"] == -0.25
    assert (one["sampled"], one["encoded"]) == (32, 4)
    assert found["met"] == {"needles": False, "repeats": False}
