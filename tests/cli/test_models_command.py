"""`tokenreduce models pull`: what it says where, and its exit codes. Nothing uses the network."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import constants
from rich.console import Console
from typer.testing import Result

from tokenreduce.errors import ModelError
from tokenreduce.events import Advanced, Finished, Started, Warned, Watcher
from tokenreduce.models import locate, saved
from tokenreduce.models.load import load
from tokenreduce.models.pull import Pulled

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv(saved.FOLDER_VARIABLE, str(tmp_path / "quantised"))
    return tmp_path


@pytest.fixture
def pulling(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Pulled]], None]:
    return lambda stand_in: monkeypatch.setattr("tokenreduce.models.pull.pull", stand_in)


def test_the_folder_goes_to_stdout_and_all_else_to_stderr(
    run: Run, pulling: Callable[[Callable[..., Pulled]], None]
) -> None:
    asked: list[Any] = []

    def pull(name: str, *, tell: Callable[[str, int, int], None], **options: Any) -> Pulled:
        asked.append((name, options))
        for done in (0, 50_000_000, 52_000_000, 100_000_000):
            tell("download", done, 100_000_000)
        tell("quantise", 3, 3)
        return Pulled("a/b", Path("/kept/here"), 6_500_000_000, "nf4", new=True)

    pulling(pull)
    done = run("models", "pull", "a/b", "--nf4", "--revision", "v1", "--to", "own")
    assert (done.exit_code, done.stdout) == (0, "/kept/here\n")
    assert asked == [("a/b", {"revision": "v1", "nf4": True, "to": Path("own")})]
    assert done.stderr.splitlines() == [
        "downloading 0 of 100 MB",
        "downloading 50 of 100 MB",  # and no line for each of many calls
        "downloading 100 of 100 MB",
        "quantising, tensor 3 of 3",
        "a/b: saved in NF4, 6.5 GB",
    ]


def test_what_is_here_already_is_said(
    run: Run, pulling: Callable[[Callable[..., Pulled]], None]
) -> None:
    pulling(lambda *_, **__: Pulled("a/b", Path("/kept"), 12_000_000, None, new=False))
    assert run("models", "pull", "a/b").stderr == "a/b: here already, 12.0 MB\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (ModelError("a/b: gated; accept its terms"), 2, "error: a/b: gated; accept its terms"),
    ],
)
def test_ends_that_are_one_line(
    run: Run,
    pulling: Callable[[Callable[..., Pulled]], None],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    def pull(*_: object, **__: object) -> Pulled:
        raise error

    pulling(pull)
    done = run("models", "pull", "a/b")
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"{says}\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo"], "demo: is on this machine, there is nothing to pull; --nf4 --to DIR saves"),
        (["."], ".: is on this machine"),
        (["llava-video-7"], "no model is called 'llava-video-7'; did you mean llava-video-7b"),
        (["llava-video-7b"], "offline mode is set; unset HF_HUB_OFFLINE to pull it"),
        (["a/b@x", "--revision", "y"], "two revisions; give one"),
        ([], "Missing argument 'ID'; see 'tokenreduce models pull --help'"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: list[str], says: str) -> None:
    done = run("models", "pull", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_the_embedded_model_can_be_quantised_and_used(run: Run, tmp_path: Path) -> None:
    to = tmp_path / "own"
    done = run("models", "pull", "demo", "--nf4", "--to", str(to))
    assert (done.exit_code, done.stdout) == (0, f"{to}\n")
    assert load(str(to), device="cpu").quantize == "nf4"
    again = run("models", "pull", "demo", "--nf4", "--to", str(to))
    assert (again.exit_code, again.stdout) == (0, f"{to}\n")
    assert again.stderr.startswith("demo: here already, ")


def test_the_list_says_what_is_quantised(
    run: Run, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saved.place_of("lmms-lab/LLaVA-Video-7B-Qwen2", "a" * 40)
    made.mkdir(parents=True)
    saved.Manifest("lmms-lab/LLaVA-Video-7B-Qwen2", "main", "a" * 40).write(made)
    rows = {line.split()[0]: line for line in run("models").stdout.splitlines()}
    assert "  in NF4  " in rows["llava-video-7b"]
    assert "  no  " in rows["llava-video-72b"]
    assert "  yes  " in rows["demo"]


def test_offline_says_how_to_get_the_model(
    run: Run, tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def forbidden(*_: object, **__: object) -> str:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", forbidden)
    model = ["--model", "someone/model", "--offline", "--device", "cpu"]
    for command in (["ask"], ["compare"]):
        done = run(*command, str(tiny_video), "What?", *model)
        assert done.exit_code == 2
        assert "run `tokenreduce models pull someone/model` while online" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: someone/model: not, or not wholly")


def test_the_place_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved.default_folder(os.environ) == tmp_path / "quantised"
    monkeypatch.delenv(saved.FOLDER_VARIABLE)
    assert saved.default_folder(os.environ).name == "models"
    assert locate.saved_folder(locate.resolve("demo")) is None


@pytest.mark.parametrize("also", [["--workers", "2"], ["--cluster", "local"]])
def test_a_spread_model_has_one_worker(
    run: Run, tiny_video: Path, tmp_path: Path, also: list[str]
) -> None:
    output = ["-o", str(tmp_path / "o.jsonl"), "--model", "demo", "--quiet"]
    done = run("batch", str(tiny_video), "What?", *output, "--device-map", "auto", *also)
    assert done.exit_code == 2
    assert "so one worker and no cluster" in done.stderr.splitlines()[-1]


def test_a_question_tells_of_the_download_it_needs(
    run: Run, tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loading(name: str, *, on_event: Watcher, **options: Any) -> Any:
        on_event(Warned("a/b is not in the cache: downloading it, 2.0 GB"))
        on_event(Started("download", 2000))
        for done in (150, 200, 250, 1000, 2000):
            on_event(Advanced("download", done))
        on_event(Finished("download", 1.0))
        return load(name, **options)

    monkeypatch.setattr("tokenreduce.occupant.load", loading)
    given = ("ask", str(tiny_video), "What?", "--model", "demo", "--no-cache", "--json")
    done = run(*given)
    lines = done.stderr.splitlines()
    at = lines.index("load")
    assert lines[at + 1 : at + 6] == [
        "warning: a/b is not in the cache: downloading it, 2.0 GB",
        "download 2,000 MB",
        "download 200 of 2,000 MB",  # and no line for each of many calls
        "download 1,000 of 2,000 MB",
        "download 2,000 of 2,000 MB",
    ]
    assert "downloading" not in done.stdout  # it says nothing of the answer
    assert run(*given, "--quiet").stderr == ""


def test_a_terminal_counts_the_megabytes(part: Callable[[str], ModuleType]) -> None:
    drawn = io.StringIO()
    bars = part("progress").Bars(Console(file=drawn, force_terminal=True, width=80), unicode=False)
    bars.begin("load", None)
    bars.begin("download", 16_000)
    bars.advance("download", 4_000)
    bars.end("download")
    bars.begin("probe", None)
    bars.close()
    assert "4,000/16,000 MB" in drawn.getvalue()


def test_without_a_size_each_gigabyte_is_told(
    part: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = part("progress").Lines()
    lines.begin("download", None)
    for done in (999, 1_300, 1_900, 5_000):
        lines.advance("download", done)
    assert capsys.readouterr().err == "download\ndownload 1,300 MB\ndownload 5,000 MB\n"
