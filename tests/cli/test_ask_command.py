"""`ask` with a stubbed pipeline: what reaches the library, what is shown where, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tokenreduce.moments import parse
from tokenreduce.result import Answer

Run = Callable[..., Result]
Stubbed = Callable[[str], list[dict[str, Any]]]

DEFAULTS = {
    "model": "llava-video-7b",
    "revision": None,
    "preset": "balanced",
    "budget": None,
    "keep": None,
    "mean_budget": None,
    "method": None,
    "frames": None,
    "decoder": None,
    "seek": None,
    "newlines": None,
    "time_text": None,
    "device": "auto",
    "dtype": "auto",
    "quantize": "auto",
    "device_map": "none",
    "offline": False,
    "max_new_tokens": 256,
    "temperature": 0.0,
    "seed": 0,
    "fps": None,
    "max_frames": None,
    "start": None,
    "end": None,
    "skip_duplicates": None,
    "vram": None,
    "fit": False,
    "subtitles": None,
    "use_cache": True,
}


def test_without_options_the_library_gets_its_own_defaults(run: Run, stubbed: Stubbed) -> None:
    calls = stubbed("answered")
    assert run("ask", "a.mp4", "What?").exit_code == 0
    (call,) = calls
    asked = {"path": "a.mp4", "question": "What?", "keep_sheet": False, "many": False}
    assert call == {**asked, **DEFAULTS}


def test_several_questions_are_asked_of_one_session(run: Run, stubbed: Stubbed) -> None:
    calls = stubbed("answered")
    done = run("ask", "a.mp4", "-q", "What?", "-q", "Who?")
    assert [(call["path"], call["question"], call["many"]) for call in calls] == [
        ("a.mp4", "What?", True),
        ("a.mp4", "Who?", True),
    ]
    said = "She shows it at 12:30."
    assert done.stdout == f"> What?\n{said}\n\n> Who?\n{said}\n"


def test_questions_of_a_file(run: Run, stubbed: Stubbed, tmp_path: Path) -> None:
    listed = tmp_path / "questions.txt"
    listed.write_text("\ufeffWhat?\n\n  Who?  \n", encoding="utf-8")
    for name, stdin in ((str(listed), None), ("-", "What?\nWho?\n")):
        calls = stubbed("answered")
        done = run("ask", "a.mp4", "--questions", name, "--json", stdin=stdin)
        assert [call["question"] for call in calls] == ["What?", "Who?"]
        assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.mp4", "-q", ""], "question 1 of 1 is empty"),
        (["a.mp4", "-q", "What?", "-q", "x" * 20_001], "has 20,001 characters"),
        (["-q", "What?"], "no video or picture"),
        (["a.mp4", "-q", "What?", "--questions", "f"], "give one of them"),
        (["a.mp4", "--questions", "/no/such"], "no such file"),
        (["a.mp4", "--questions", "/dev/null"], "/dev/null"),
    ],
)
def test_questions_that_cannot_be(
    run: Run, stubbed: Stubbed, arguments: list[str], told: str
) -> None:
    calls = stubbed("answered")
    done = run("ask", *arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert told in line
    assert not calls


def test_a_sheet_that_is_not_written_is_told(run: Run, stubbed: Stubbed, tmp_path: Path) -> None:
    stubbed("answered")
    sheet = ["--show-frames", str(tmp_path / "sheet.png")]
    told = "warning: --show-frames: only for videos, of no effect on pictures"
    assert told in run("ask", "a.jpg", "What?", *sheet).stderr.splitlines()
    assert run("ask", "a.jpg", "What?", *sheet, "--quiet").stderr == ""


def test_every_option_reaches_the_library(run: Run, stubbed: Stubbed) -> None:
    calls = stubbed("answered")
    written = (
        "--model demo --revision v1 --preset fast --method fastv --budget 3000 --frames 128 "
        "--decoder decord --seek keyframe --newlines none --no-time-text --device cuda:1 "
        "--dtype float16 --quantize nf4 --device-map auto --offline --max-new-tokens 32 "
        "--temperature 0.7 --seed 11 "
        "--fps 0.5 --max-frames 300 --start 10:00 --end 75% --skip-duplicates off "
        "--subtitles said.srt --vram 8GiB --fit --no-cache"
    )
    assert run("ask", "a.mp4", "What?", *written.split()).exit_code == 0
    (call,) = calls
    assert {name: call[name] for name in DEFAULTS} == {
        "model": "demo",
        "revision": "v1",
        "preset": "fast",
        "budget": 3000,
        "keep": None,
        "mean_budget": None,
        "method": "fastv",
        "frames": 128,
        "decoder": "decord",
        "seek": "keyframe",
        "newlines": "none",
        "time_text": False,
        "device": "cuda:1",
        "dtype": "float16",
        "quantize": "nf4",
        "device_map": "auto",
        "offline": True,
        "max_new_tokens": 32,
        "temperature": 0.7,
        "seed": 11,
        "fps": 0.5,
        "max_frames": 300,
        "start": parse("10:00"),
        "end": parse("75%"),
        "skip_duplicates": "off",
        "subtitles": "said.srt",
        "vram": 8 << 30,
        "fit": True,
        "use_cache": False,
    }


@pytest.mark.parametrize("written", ["0.25", "1/4", ".25"])
def test_keep_is_exact(run: Run, stubbed: Stubbed, written: str) -> None:
    calls = stubbed("answered")
    result = run("ask", "a.mp4", "What?", "--keep", written)
    assert result.exit_code == 0
    assert calls[0]["keep"] == Fraction(1, 4)


def test_the_answer_alone_is_on_stdout(run: Run, stubbed: Stubbed) -> None:
    stubbed("answered")
    result = run("ask", "a.mp4", "What?")
    assert result.stdout == "She shows it at 12:30.\n"
    assert result.stderr.splitlines()[:6] == [
        "probe",
        "load",
        "warning: first: downloading",
        "decode 64",
        "answer 256",
        "warning: second: after the answer",
    ]
    assert "visual tokens  13,440 raw -> 3,360 merged" in result.stderr


def test_quiet_leaves_stderr_empty(run: Run, stubbed: Stubbed) -> None:
    stubbed("answered")
    result = run("ask", "a.mp4", "What?", "--quiet")
    assert (result.stdout, result.stderr) == ("She shows it at 12:30.\n", "")


def test_json_is_the_one_object_of_the_library(run: Run, stubbed: Stubbed, sample: Answer) -> None:
    stubbed("answered")
    result = run("ask", "a.mp4", "What?", "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == sample.to_json()
    assert "visual tokens" not in result.stderr  # no table: the object has it all
    assert "decode 64" in result.stderr


@pytest.mark.parametrize("arguments", [["-"], []])
def test_the_question_may_be_piped_in(run: Run, stubbed: Stubbed, arguments: list[str]) -> None:
    calls = stubbed("answered")
    assert run("ask", "a.mp4", *arguments, stdin="What is\nthis? ü\n").exit_code == 0
    assert calls[0]["question"] == "What is\nthis? ü"


def test_several_files_and_then_the_question(run: Run, stubbed: Stubbed) -> None:
    calls = stubbed("answered")
    assert run("ask", "a.jpg", "b.png", "What differs?").exit_code == 0
    assert (calls[0]["path"], calls[0]["question"]) == (["a.jpg", "b.png"], "What differs?")
    assert run("ask", "a.jpg", "b.png", "-", stdin="What?").exit_code == 0
    assert (calls[1]["path"], calls[1]["question"]) == (["a.jpg", "b.png"], "What?")


def test_a_given_question_leaves_standard_input_alone(run: Run, stubbed: Stubbed) -> None:
    calls = stubbed("answered")
    run("ask", "a.mp4", "What?", stdin="something else")
    assert calls[0]["question"] == "What?"


def test_control_characters_of_an_error_are_shown_not_obeyed(run: Run, stubbed: Stubbed) -> None:
    stubbed("refused")
    result = run("ask", "a.mp4", "What?")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == ("error: /videos/a\\x1b[2J\\n[red].mp4 is not a video; give one\n")


def test_capacity_has_an_exit_code_of_its_own(run: Run, stubbed: Stubbed) -> None:
    stubbed("too_large")
    result = run("ask", "a.mp4", "What?")
    assert result.exit_code == 5
    assert result.stderr == "error: the GPU has 4 GB, the model needs 6 GB; use --device cpu\n"


def test_a_bug_is_not_hidden(run: Run, stubbed: Stubbed) -> None:
    stubbed("faulty")
    result = run("ask", "a.mp4", "What?")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_pipe_gets_the_answer_as_the_model_gave_it(run: Run, stubbed: Stubbed) -> None:
    stubbed("hostile")
    result = run("ask", "a.mp4", "What?", "--quiet")
    assert result.stdout == "[bold]red\x1b[31m\x1b]0;title\x07 \x07bell\u202e[/bold]\n"


MISTAKES = {
    # arguments after `ask`: what the one line has to say
    (): "no video or picture: give a local file",
    ("a.mp4", "Q", "--budget", "0"): "--budget is '0'; it must be a whole number of visual tokens",
    ("a.mp4", "Q", "--budget", "-1"): "--budget is '-1'; it must be a whole number",
    ("a.mp4", "Q", "--budget", "abc"): "--budget is 'abc'; it must be a whole number",
    ("a.mp4", "Q", "--budget", "1.5"): "--budget is '1.5'; it must be a whole number",
    ("a.mp4", "Q", "--budget", "1" * 5000): "--budget is '1111",
    ("a.mp4", "Q", "--budget", "5", "--keep", "0.5"): "--budget and --keep both say how many",
    ("a.mp4", "Q", "--keep", "0"): "--keep is '0'; it must be a share kept such as 0.25 or 1/4",
    ("a.mp4", "Q", "--keep", "1.5"): "--keep is '1.5'; it must be a share kept",
    ("a.mp4", "Q", "--keep", "25%"): "--keep is '25%'; it must be a share kept",
    ("a.mp4", "Q", "--frames", "0"): "--frames is '0'; it must be a whole number of frames, at",
    ("a.mp4", "Q", "--frames", "1e9"): "--frames is '1e9'",
    ("a.mp4", "Q", "--decoder", "ffmpeg"): "it must be one of: auto, pyav, decord",
    ("a.mp4", "Q", "--seek", "near"): "it must be one of: exact, keyframe",
    ("a.mp4", "Q", "--newlines", "all"): "it must be one of: share, frame, none",
    ("a.mp4", "Q", "--device", "tpu"): "--device is 'tpu'; it must be auto, cpu, cuda, cuda:N",
    ("a.mp4", "Q", "--dtype", "int4"): "it must be one of: auto, float32, bfloat16, float16",
    ("a.mp4", "Q", "--quantize", "q4"): "it must be one of: auto, nf4, int8, none",
    ("a.mp4", "Q", "--temperature", "hot"): "--temperature is 'hot'; it must be a number from 0",
    ("a.mp4", "Q", "--temperature", "nan"): "--temperature is 'nan'; it must be a number",
    ("a.mp4", "Q", "--max-new-tokens", "0"): "it must be a whole number of tokens, at least 1",
    ("a.mp4", "Q", "--seed", "-3"): "--seed is '-3'; it must be a whole number, at least 0",
    ("a.mp4", "Q", "--seed", "4294967296"): "at least 0, at most 4,294,967,295",
    ("a.mp4", "Q", "--keep", "."): "--keep is '.'; it must be a share kept",
    ("a.mp4", "Q", "--model", ""): "--model is ''; it must be an alias, a hub id or a folder",
    ("a.mp4", "Q", "--bogus"): "No such option: --bogus; see 'tokenreduce ask --help'",
    ("a.mp4", "Q", "--budget"): "--budget",
    ("a.mp4", "\udcff"): "the question is not valid UTF-8",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_every_mistake_is_one_line(run: Run, stubbed: Stubbed, arguments: tuple[str, ...]) -> None:
    calls = stubbed("answered")
    result = run("ask", *arguments)
    assert (result.exit_code, result.stdout, calls) == (2, "", [])
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 250
    assert MISTAKES[arguments] in result.stderr


@pytest.mark.parametrize(
    ("piped", "says"),
    [(b"What \xff?", "is not valid UTF-8"), (b"x" * (1 << 20) + b"y", "longer than 1 MiB")],
)
def test_unusable_standard_input(run: Run, stubbed: Stubbed, piped: bytes, says: str) -> None:
    stubbed("answered")
    result = run("ask", "a.mp4", "-", stdin=piped)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize("question", ["", "  \n", "x" * 100_000, "x" * 20_001])
def test_the_library_refuses_an_empty_or_endless_question(run: Run, question: str) -> None:
    result = run("ask", "missing.mp4", question, "--model", "demo", "--quiet")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the question ")
    assert result.stderr.count("\n") == 1


def test_the_library_refuses_an_unknown_preset(run: Run) -> None:
    result = run("ask", __file__, "Q", "--model", "demo", "--preset", "fats", "--quiet")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: no preset 'fats'; there are: accurate, aim, balanced, fast"
    )
