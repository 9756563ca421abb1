"""`tokenreduce plan` takes what a question takes, and says what would fit or what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from tokenreduce.errors import SettingError
from tokenreduce.imagined import in_nf4, placed_for
from tokenreduce.models.builtin import builtin
from tokenreduce.models.placement import Placement
from tokenreduce.shipped import preset_names

Run = Callable[..., Result]


def planned(run: Run, *arguments: str) -> dict[str, Any]:
    """What `plan --json` prints."""
    result = run("plan", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def first(run: Run, *arguments: str) -> dict[str, Any]:
    """Of the preset that was named first."""
    one: dict[str, Any] = planned(run, *arguments)["plans"][0]
    return one


@pytest.fixture
def said(tmp_path: Path) -> Path:
    path = tmp_path / "said.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\n" + "word " * 60 + "\n")
    return path


SETTINGS = ("--no-time-text", "--newlines", "frame", "--skip-duplicates", "off")


@pytest.mark.parametrize(
    ("command", "settings"),
    [("ask", ()), ("ask", (*SETTINGS, "--subtitles", "{said}")), ("chat", SETTINGS)],
)
def test_what_is_foreseen_is_what_a_question_is_fitted_by(
    run: Run, tiny_video: Path, said: Path, command: str, settings: tuple[str, ...]
) -> None:
    """The same peak, to the byte, as what `--vram` compares with what may be used."""
    given = [str(tiny_video), "--model", "demo", "--device", "cpu", "--vram", "200MiB", "-p", "aim"]
    given += [part.format(said=said) for part in settings]
    chat = ["--chat"] if command == "chat" else []
    found = planned(run, *given, *chat)
    assert found["chat"] is bool(chat)
    question = ["What?"] if command == "ask" else []
    asked = run(
        command, *given[:1], *question, *given[1:], "--quiet", "--json", "--no-cache", stdin="What?"
    )
    fitted = json.loads(asked.stdout)["fitted"]
    assert found["plans"][0]["peak"] == fitted["predicted"]


def test_what_each_setting_changes(run: Run, tiny_video: Path, said: Path) -> None:
    given = (str(tiny_video), "--vram", "12GiB", "-p", "aim")
    usual = first(run, *given)
    text: int = usual["tokens"]["text"]
    assert first(run, *given, "--no-time-text")["tokens"]["text"] < text
    assert first(run, *given, "--subtitles", str(said))["tokens"]["text"] == text + 100
    assert first(run, *given, "--skip-duplicates", "auto") == usual
    chat = first(run, *given, "--chat")
    assert chat["tokens"]["text"] == text + 1024
    assert "questions before" in chat["stages"]["decode"]
    assert "questions before" not in usual["stages"]["decode"]
    assert "\nquestions      several, with what was said before\n" in (
        run("plan", *given, "--chat").stdout
    )


def test_a_toy_world_is_told_nothing_of_before(run: Run, tiny_video: Path) -> None:
    given = (str(tiny_video), "--model", "demo", "-p", "none")
    chat, usual = first(run, *given, "--chat"), first(run, *given)
    assert chat["tokens"] == usual["tokens"]
    assert chat["peak"] > usual["peak"]
    assert "\nquestions      several\n" in run("plan", *given, "--chat").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--start", "2", "--end", "1"], "start 2 is not before end 1"),
        (["--max-frames", "10"], "max_frames limits what fps samples"),
        (["--subtitles", "absent.srt"], "absent.srt: no such file"),
        (["--subtitles", "embedded"], "has no text track"),
        (["--device-map", "auto", "--vram", "12"], "of layers that are spread is not foreseen"),
    ],
)
def test_what_no_preset_can_do_is_told_once(
    run: Run, tiny_video: Path, arguments: list[str], says: str
) -> None:
    for more in ((), ("--json",)):
        result = run("plan", str(tiny_video), *arguments, *more)
        assert (result.exit_code, result.stdout) == (2, "")
        assert says in result.stderr
        assert result.stderr.count("\n") == 1


def test_where_each_preset_has_a_reason_of_its_own_all_are_told(run: Run, tiny_video: Path) -> None:
    given = ("plan", str(tiny_video), "--max-new-tokens", "1000000")
    lines = run(*given).stdout.splitlines()
    assert sum("cannot be used: " in line for line in lines) == 1 + len(preset_names())
    result = run(*given, "--json")
    assert result.exit_code == run(*given).exit_code == 2
    plans = json.loads(result.stdout)["plans"]
    assert len({one["refused"] for one in plans}) > 1


def test_nf4_is_named_where_it_would_do(run: Run, tiny_video: Path) -> None:
    """And with less of the rest where it would do only then; each offer keeps its word."""
    given = (str(tiny_video), "-p", "none", "--vram")
    for size, begins in (("12", "--quantize nf4"), ("8", "--quantize nf4 --frames ")):
        full = (*given, size, "--quantize", "none")
        (offer,) = first(run, *full)["would_fit"]
        assert offer.startswith(begins)
        assert first(run, *given, size, *offer.split())["fits"]
        (told,) = (
            line for line in run("plan", *full).stdout.splitlines() if line.startswith("fits ")
        )
        assert told.removeprefix("fits").strip() == f"no; {offer} would"
    beside = first(run, *given, "18", "--quantize", "none", "--frames", "80")["would_fit"]
    assert [offer.split()[0] for offer in beside] == ["--frames", "--quantize"]


def test_where_nothing_would_do_it_is_said_what_is_left(run: Run, tiny_video: Path) -> None:
    given = ("plan", str(tiny_video), "-p", "fast", "--quantize", "none", "--vram")
    card = run(*given, "5").stdout
    assert (
        "no: the weights alone take 15.0 GiB; use a smaller --model or a larger card, or several "
        "with --device-map auto"
    ) in card
    here = run(*given, "5", "--device", "cpu").stdout
    assert "no: the weights alone take 29.9 GiB; use a smaller --model or more --vram" in here


def test_the_host_is_offered_nf4_only_where_that_would_do(
    run: Run, tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("plan", str(tiny_video), "--device", "cpu")
    for free, quantize, offered in (
        (20 << 30, "none", True),
        (4 << 30, "none", False),
        (4 << 30, "nf4", False),
    ):
        monkeypatch.setattr("tokenreduce.memory.host_free_bytes", lambda free=free: free)
        (told,) = (
            line
            for line in run(*given, "--quantize", quantize).stdout.splitlines()
            if line.startswith("fits ")
        )
        assert ("--quantize nf4 would fit" in told) is offered


def test_a_card_that_is_not_here_is_called_that(run: Run, tiny_video: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    given = ("plan", str(tiny_video), "--model", "demo", "-p", "none", "--vram")
    card = run(*given, "60MiB").stdout
    assert "cuda, 60 MiB: about 512.0 MiB for the driver, and that is all of it\n" in card
    assert "runs on cpu, where tensors may take all of --vram; --device cpu plans for that" in card
    assert "fits           no: nothing is left for tensors; give more --vram\n" in card
    here = run(*given, "60MiB", "--device", "cpu").stdout
    assert "cpu, 60 MiB: 60.0 MiB for tensors" in here
    assert "no card is here" not in here
    assert "\nfits           yes\n" in here
    assert "a question with --device cuda is refused" in (
        run(*given, "1", "--device", "cuda").stdout
    )


def test_all_pictures_are_named_and_what_is_of_videos_is_warned_of(
    run: Run, tmp_path: Path
) -> None:
    from PIL import Image

    for name, width in (("a.png", 64), ("b.jpg", 32)):
        Image.new("RGB", (width, 48)).save(tmp_path / name)
    given = ("plan", str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), "--model", "demo")
    told = run(*given, "--end", "3").stdout.splitlines()[0]
    assert told == f"files          {tmp_path}/a.png: 64 x 48; {tmp_path}/b.jpg: 32 x 48"
    warned = run(*given, "--end", "3", "--subtitles", "absent.srt").stderr
    assert warned == "warning: --end, --subtitles: only for videos, of no effect on pictures\n"


def test_layers_are_planned_for_only_where_one_device_has_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = builtin("llava-video-7b")
    assert spec is not None
    usual = placed_for(spec, "cpu", "auto", "auto", None)
    assert placed_for(spec, "cpu", "auto", "auto", None, "auto") == usual
    where = "tokenreduce.imagined."
    one = Placement(torch.device("cuda:0"), torch.bfloat16, "nf4")
    monkeypatch.setattr(where + "available", lambda: True)
    monkeypatch.setattr(where + "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(where + "spread", lambda *_: one)
    assert placed_for(spec, "auto", "auto", "nf4", None, "auto") == one
    two = Placement(one.device, one.dtype, "nf4", ("cuda:0", "cuda:1"))
    monkeypatch.setattr(where + "spread", lambda *_: two)
    with pytest.raises(SettingError, match="set --device-map none"):
        placed_for(spec, "auto", "auto", "nf4", None, "auto")


def test_nf4_is_no_choice_where_it_is_already_or_cannot_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = builtin("llava-video-7b")
    assert spec is not None
    where = Placement(torch.device("cuda"), torch.bfloat16, "none")
    found = in_nf4(where, spec, "llava-video-7b", None)
    assert found == Placement(where.device, where.dtype, "nf4")
    assert in_nf4(found, spec, "llava-video-7b", None) is None
    mps = Placement(torch.device("mps"), torch.bfloat16, "none")
    assert in_nf4(mps, spec, "llava-video-7b", None) is None
    monkeypatch.setattr("tokenreduce.models.quantize.find_spec", lambda _: None)
    assert in_nf4(where, spec, "llava-video-7b", None) is None
