"""`tokenreduce plan`: what it says of a file and a model, without a weight, a card or a network."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import Result

from tokenreduce.calibration import LAST, NAME, key_of, machine_of, note, speed
from tokenreduce.models import load
from tokenreduce.models.aliases import ALIASES
from tokenreduce.models.builtin import builtin, planned_spec
from tokenreduce.models.locate import read_spec
from tokenreduce.result import Answer
from tokenreduce.shipped import preset_names

Run = Callable[..., Result]
KEY = "demo | cpu | none"


def planned(run: Run, *arguments: str) -> dict[str, Any]:
    """What `plan --json` prints, while no weight can be loaded and nothing downloaded."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load", refused)
        patch.setattr(load, "weights_folder", refused)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        result = run("plan", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_every_preset_is_planned_for(run: Run, tiny_video: Path) -> None:
    found = planned(run, str(tiny_video), "--model", "demo", "-p", "fast")
    assert [one["preset"] for one in found["plans"]] == list(
        dict.fromkeys(("fast", *preset_names()))
    )
    assert (found["device"], found["quantize"], found["limit"]) == ("cpu", "none", None)
    for one in found["plans"]:
        assert one["tokens"]["merged"] == one["tokens"]["per_layer"][0] <= one["tokens"]["raw"]
        assert one["peak"] == max(sum(parts.values()) for parts in one["stages"].values())
        assert (one["fits"], one["seconds"], one["driver"]) == (None, None, 0)


@pytest.mark.parametrize("preset", ["fast", "aim"])
def test_what_is_planned_is_what_happens(run: Run, tiny_video: Path, preset: str) -> None:
    """Tokens, FLOPs and the cache, but for the text, which is estimated."""
    given = (str(tiny_video), "--model", "demo", "--frames", "8")
    one = planned(run, *given, "-p", preset)["plans"][0]
    asked = ("What?", "-p", preset, "--skip-duplicates", "off", "--no-cache")
    answer = json.loads(run("ask", *given, *asked, "--json", "--quiet").stdout)
    assert one["method"] == answer["method"]
    for count in ("raw", "merged", "per_layer"):
        assert one["tokens"][count] == answer["tokens"][count]
    assert one["flops"]["vision"] == answer["flops"]["vision"]
    assert one["flops"]["llm"] >= answer["flops"]["llm"] > 0
    text = one["tokens"]["text"] - answer["tokens"]["text"]
    assert 0 <= text < 200  # a longer question than this one is allowed for


def test_a_7b_that_is_not_here_and_a_card_that_is_not_either(run: Run, tiny_video: Path) -> None:
    found = planned(run, str(tiny_video), "--vram", "8GiB")
    assert (found["builtin"], found["quantize"], found["dtype"]) == (True, "nf4", "bfloat16")
    assert found["limit"] == (8 << 30) - (512 << 20)
    plans = {one["preset"]: one for one in found["plans"]}
    assert plans["fast"]["fits"]
    assert not plans["none"]["fits"]
    (offer,) = plans["none"]["would_fit"]
    frames = re.fullmatch(r"--frames (\d+)", offer)
    assert frames is not None
    fewer = planned(run, str(tiny_video), "--vram", "8GiB", "-p", "none", *offer.split())
    assert fewer["plans"][0]["fits"]


def test_what_is_told(run: Run, tiny_video: Path) -> None:
    result = run("plan", str(tiny_video), "--vram", "8", "-p", "aim", "-p", "fast")
    lines = result.stdout.splitlines()
    assert lines[0].endswith("tiny.mp4: 2.0 s, 96 x 64")
    assert "nf4, bfloat16; its sizes are built in" in lines[1]
    assert [line.split()[1] for line in lines if line.startswith("preset  ")][:2] == [
        "aim:",
        "fast:",
    ]
    peak = next(line for line in lines if line.startswith("peak memory"))
    assert re.search(r"GiB predicted, prefill: weights 5\.\d GiB, .*LLM .*KV cache", peak)
    assert sum(line.startswith("seconds        not calibrated") for line in lines) == 2
    table = lines[lines.index("", lines.index("") + 1) :]
    assert any(line.startswith("none ") for line in table)


def test_on_a_cpu_the_host_s_memory_is_the_limit(
    run: Run, tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("plan", str(tiny_video), "--device", "cpu")
    for free, fits in (
        (20 << 30, "no: the host has 20.0 GiB free"),
        (60 << 30, None),
        (None, None),
    ):
        monkeypatch.setattr("tokenreduce.memory.host_free_bytes", lambda free=free: free)
        lines = run(*given).stdout.splitlines()
        told = [line.removeprefix("fits").strip() for line in lines if line.startswith("fits")]
        assert (told == []) == (fits is None)
        assert all(line.startswith(fits or "") for line in told)
        assert json.loads(run(*given, "--json").stdout)["host_free"] == free
        (device,) = (line for line in lines if line.startswith("device"))
        assert ("of the host's memory free" in device) == (free is not None)
    # A card that is planned for has a memory of its own.
    card = run("plan", str(tiny_video), "--vram", "8GiB")
    assert "host" not in card.stdout


def test_a_folder_of_quantised_weights_is_planned_for_as_that(
    run: Run, tiny_video: Path, tmp_path: Path
) -> None:
    from tokenreduce.models.pull import pull

    pull("demo", nf4=True, to=tmp_path / "q4")
    given = (str(tiny_video), "--model", str(tmp_path / "q4"), "-p", "fast")
    assert planned(run, *given)["quantize"] == "nf4"
    refused = run("plan", *given, "--quantize", "none")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "holds nf4 weights; set nf4 or auto" in refused.stderr


def test_pictures_are_planned_for(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    found = planned(run, str(tmp_path / "a.png"), "--model", "demo")
    assert found["images"][0]["width"] == 64
    assert {one["frames"] for one in found["plans"]} == {1}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["absent.mp4"], 2, "absent.mp4: no such file"),
        (["{video}", "--vram", "12 bananas"], 2, "--vram is '12 bananas'; it must be auto or a"),
        (
            ["{video}", "--vram", "auto", "--device", "cpu"],
            5,
            "--vram auto: nothing limits the memory",
        ),
        (["{video}", "--model", "llava-vdieo-7b"], 2, "no model is called 'llava-vdieo-7b'"),
        (["{video}", "--model", "no/body", "--offline"], 2, "and offline mode is set; run `tok"),
        (["{video}", "-p", "fats"], 2, "no preset 'fats'"),
        (["{video}", "--budget", "5", "--keep", "1/2"], 2, "--budget and --keep both say how"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, tiny_video: Path, arguments: list[str], code: int, says: str
) -> None:
    result = run("plan", *(part.format(video=tiny_video) for part in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_preset_that_cannot_be_is_said_so_and_the_others_go_on(
    run: Run, tiny_video: Path
) -> None:
    given = (str(tiny_video), "--model", "demo", "--budget", "5")
    found = {one["preset"]: one for one in planned(run, *given)["plans"]}
    assert "reduces nothing before the LLM" in found["none"]["refused"]
    assert found["fast"]["tokens"]["merged"] == 5
    for shown in (run("plan", *given, "-p", "none").stdout, run("plan", *given).stdout):
        assert "cannot be used: none reduces nothing before the LLM" in shown


def test_frames_that_the_file_has_not_cost_nothing(run: Run, tiny_video: Path) -> None:
    given = (str(tiny_video), "--model", "demo")
    many = planned(run, *given, "--frames", "5000")["plans"][0]
    assert many["requested"] == 5000
    assert 1 < many["frames"] < 100
    all_of_them = planned(run, *given, "--frames", str(many["frames"]))["plans"][0]
    assert many | {"requested": many["frames"]} == all_of_them
    told = run("plan", *given, "--frames", "5000").stdout
    assert f"{many['frames']} of 5,000 asked for: the file has no more" in told


def test_the_text_counts_in_the_context_window(run: Run, tiny_video: Path) -> None:
    given = (str(tiny_video), "-p", "none", "--vram", "80GiB", "--max-new-tokens")
    left = 32_768 - planned(run, *given, "1")["plans"][0]["tokens"]["merged"]
    (one, *_) = planned(run, *given, str(left - 10))["plans"]
    assert "answer tokens exceed the 32768" in one["refused"]


def test_what_no_setting_mends_is_said(run: Run, tiny_video: Path) -> None:
    given = ("plan", str(tiny_video), "-p", "fast", "--vram")
    assert "fits           no: the weights alone take 5.9 GiB" in run(*given, "6").stdout
    assert "fits           no, whatever is lowered" in run(*given, "6.5").stdout


def test_a_number_and_its_unit_stay_on_one_line(
    part: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    part("render").columns([("label", "x" * 36 + " 6.4\u00a0GiB")], tied=True)
    assert capsys.readouterr().out.splitlines() == ["label  " + "x" * 36, " " * 7 + "6.4 GiB"]


def test_what_would_fit_fits_and_one_more_does_not(run: Run, tiny_video: Path) -> None:
    given, whole = (str(tiny_video), "--vram", "8GiB", "-p", "aim"), ("--budget", "12000")
    one = planned(run, *given, *whole)["plans"][0]
    assert not one["fits"]
    assert [offer.split()[0] for offer in one["would_fit"]] == ["--budget", "--frames"]
    for offer in one["would_fit"]:
        flag, count = offer.split()
        for number, fits in ((int(count), True), (int(count) + 1, False)):
            rest = () if flag == "--budget" else whole
            again = planned(run, *given, *rest, flag, str(number))
            assert again["plans"][0]["fits"] is fits


def test_what_is_built_in_is_what_the_files_say() -> None:
    """The published sizes, and nothing for what comes with the package."""
    assert builtin("demo") is None
    assert planned_spec("demo") == (read_spec("demo"), False)
    spec, here = planned_spec("llava-video-72b")
    assert (here, spec.text.layers, spec.text.width, spec.newline) == (True, 80, 8192, "grid")
    assert planned_spec("lmms-lab/LLaVA-Video-72B-Qwen2") == (spec, True)
    for alias in ALIASES.values():
        known = builtin(alias.name)
        assert known is None or known.name == alias.hub_id
    half, seven = builtin("llava-onevision-0.5b"), builtin("llava-1.5-7b")
    assert half is not None
    assert seven is not None
    assert (half.text.tied, half.still, half.layout(1).available) == (True, "tiles", 197)
    assert (seven.vision.layers, seven.vision.patches, seven.text.heads) == (23, 576, 32)


def test_runs_calibrate_what_is_foreseen(run: Run, tiny_video: Path) -> None:
    given = (str(tiny_video), "--model", "demo", "-p", "fast", "--skip-duplicates", "off")
    assert run("ask", *given[:1], "What?", *given[1:], "--quiet").exit_code == 0
    (one, *_) = planned(run, *given[:5])["plans"]
    assert one["seconds"]["prefill"] > 0
    assert one["seconds"]["decode"] > 0
    assert "to the first token: decode" in run("plan", *given[:5]).stdout
    other = planned(run, *given[:5], "--dtype", "bfloat16")["plans"][0]
    assert other["seconds"] is None


def test_the_middle_of_the_last_runs_counts(sample: Answer, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    for seconds in (100.0, 3.0, 1.0, 2.0, 5.0, 4.0):
        slower = replace(sample, seconds=replace(sample.seconds, decode=seconds * 4))
        note(folder, KEY, slower)
    found = speed(folder, KEY)
    assert found is not None
    assert found.runs == LAST
    assert found.decode == pytest.approx(3 * 4 / sample.frames.decoded)
    assert speed(folder, key_of("other", "cpu", "none")) is None
    assert sorted(path.name for path in folder.iterdir()) == [NAME]


def test_what_came_from_the_cache_or_was_stopped_calibrates_nothing(
    sample: Answer, tmp_path: Path
) -> None:
    note(tmp_path, KEY, replace(sample, frames=replace(sample.frames, source="cache")))
    note(tmp_path, KEY, replace(sample, finish_reason="interrupted"))
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"k": 5}', json.dumps({KEY: [{"decode": "x"}, 7, None]}), "\xff"]
)
def test_a_spoilt_file_is_as_good_as_none(text: str, sample: Answer, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    assert speed(tmp_path, KEY) is None
    note(tmp_path, KEY, sample)
    assert speed(tmp_path, KEY) is not None


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(
    sample: Answer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    note(tmp_path / "file" / "below", KEY, sample)
    assert speed(tmp_path / "file" / "below", KEY) is None


def test_a_machine_is_told_by_its_device_and_dtype() -> None:
    told = machine_of(torch.device("cpu"), torch.float32)
    assert told == f"cpu, {torch.get_num_threads()} threads, float32"
    if not torch.cuda.is_available():
        assert machine_of(torch.device("cuda"), torch.bfloat16) is None
