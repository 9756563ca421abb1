"""Every shipped preset reads; every mistake in one's own is one line with file, key, choices."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path

import pytest

from tokenreduce.errors import SettingError
from tokenreduce.methods import METHODS
from tokenreduce.preset import Preset, load_preset, method_label, preset_names
from tokenreduce.schedule import Once, Ramp, Schedule
from tokenreduce.shipped import preset_summary

GOOD = """
summary = "mine"
keep = "1/4"
[video]
frames = 2
[[stage]]
at = "frames"
method = { name = "aim-merge" }
[[stage]]
at = "llm"
method = { name = "aim-prune" }
schedule = { name = "ramp", first = "1/2", last = "11/14" }
"""

WHOLE = {
    "fast": (Fraction(1), "keyframe", Fraction(1, 8), "drift-merge + ask-prune"),
    "balanced": (Fraction(2), "exact", Fraction(1, 4), "drift-merge + ask-prune"),
    "accurate": (Fraction(4), "exact", Fraction(1, 4), "drift-merge + ask-prune"),
    "aim": (Fraction(2), "exact", Fraction(1, 4), "aim-merge + aim-prune"),
    "none": (Fraction(1), "exact", Fraction(1), "none"),
    "uniform": (Fraction(2), "exact", Fraction(1, 4), "uniform"),
    "random": (Fraction(2), "exact", Fraction(1, 4), "random"),
}


def mine(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_reads(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.summary == preset_summary(name)
    assert 10 < len(preset.summary) <= 100
    with pytest.raises(FrozenInstanceError):
        preset.keep = Fraction(1)  # type: ignore[misc]  # frozen: that is the test


def test_the_shipped_presets_are_what_the_documentation_says() -> None:
    found = {}
    for name in preset_names():
        preset = load_preset(name)
        video = preset.video
        found[name] = (video.frames, video.seek, preset.keep, method_label(preset))
    assert found == WHOLE


def test_the_page_says_the_same() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    rows = [line.split("|") for line in page.read_text(encoding="utf-8").splitlines()]
    said = {}
    for row in rows:
        if len(row) == 7 and " x native" in row[2]:
            for name in re.findall(r"`(\w+)`", row[1]):
                seek = "keyframe" if row[5].strip() == "key frames" else row[5].strip()
                kept = Fraction(1) if row[3].strip() == "all" else Fraction(row[3].strip())
                said[name] = (Fraction(row[2].split()[0]), seek, kept)
    assert said == {name: found[:3] for name, found in WHOLE.items()}


def test_schedules_of_the_shipped_presets() -> None:
    found = {name: [s.schedule for s in load_preset(name).in_llm] for name in preset_names()}
    half = Fraction(1, 2)
    expected: dict[str, list[Schedule]] = {
        "fast": [Once(half, Fraction(1, 8))],
        "balanced": [Once(half, Fraction(1, 4))],
        "accurate": [Once(half, Fraction(1, 4))],
        "aim": [Ramp(half, Fraction(11, 14))],
    }
    assert found == {name: expected.get(name, []) for name in WHOLE}


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    preset = load_preset(mine(tmp_path, GOOD))
    shipped = load_preset("aim")
    assert preset.name == "mine.toml"  # never to be taken for a shipped one
    assert (preset.video, preset.keep, preset.stage) == (
        shipped.video,
        shipped.keep,
        shipped.stage,
    )


@pytest.mark.parametrize("written", ["0.25", '"1/4"', '"0.25"', '".25"'])
def test_fractions_are_exact_however_written(tmp_path: Path, written: str) -> None:
    preset = load_preset(mine(tmp_path, GOOD.replace('"1/4"', written)))
    assert preset.keep == Fraction(1, 4)
    assert load_preset(mine(tmp_path, GOOD.replace('"1/4"', "0.1"))).keep == Fraction(1, 10)


MISTAKES = {
    # what is wrong: (from, to, what the message has to say after the file's name)
    "unknown key": (
        'keep = "1/4"',
        'keeep = "1/4"',
        [
            ": no key 'keeep'; there are: keep, newlines, stage, summary, video",
            "did you mean keep?",
        ],
    ),
    "name is not a key": ('summary = "mine"', 'name = "x"\nsummary = "y"', [": no key 'name'"]),
    "unknown key below": ("frames = 2", "frames = 2\nfps = 1", [".video: no key 'fps'", "seek"]),
    "key of a method": (
        '"aim-merge" }',
        '"aim-merge", weigted = true }',
        [".stage[0].method: no key 'weigted'; there are: weighted", "did you mean weighted?"],
    ),
    "type of a method's key": (
        '"aim-merge" }',
        '"aim-merge", weighted = 1 }',
        [".stage[0].method.weighted is 1; it must be true or false"],
    ),
    "missing key": ("frames = 2", 'seek = "exact"', [".video: key 'frames' is missing"]),
    "missing summary": ('summary = "mine"', "", [": key 'summary' is missing; it is text"]),
    "number beyond floats": (
        '"aim-prune" }',
        '"aim-prune", temperature = ' + "9" * 400 + " }",
        [".stage[1].method.temperature is 999", "...; it must be a number"],
    ),
    "number that is none": (
        '"aim-prune" }',
        '"aim-prune", temperature = inf }',
        [".stage[1].method.temperature is inf; it must be a number"],
    ),
    "site": (
        'at = "llm"',
        'at = "lmm"',
        [".stage[1].at is 'lmm'; it can be: encoder, frames, clip, llm"],
    ),
    "method": (
        '"aim-merge"',
        '"aim-merg"',
        [
            ".stage[0].method.name: no method 'aim-merg'",
            *sorted(METHODS),
            "did you mean aim-merge?",
        ],
    ),
    "method of no name": ('{ name = "aim-merge" }', "{}", [".stage[0].method: key 'name' is"]),
    "method as text": (
        '{ name = "aim-merge" }',
        '"aim-merge"',
        [".stage[0].method is 'aim-merge'"],
    ),
    "method at the wrong site": (
        '"aim-merge"',
        '"aim-prune"',
        [".stage[0]: at is 'frames', where aim-prune cannot act; it acts at: llm"],
    ),
    "schedule": (
        '"ramp"',
        '"rampe"',
        [
            ".stage[1].schedule.name: no schedule 'rampe'; "
            "there are: even, full, levels, once, ramp, steps"
        ],
    ),
    "schedule before the LLM": (
        '"aim-merge" }',
        '"aim-merge" }\nschedule = { name = "full" }',
        [".stage[0]: a schedule only counts between layers"],
    ),
    "ramp backwards": ('first = "1/2"', "first = 1", [".stage[1].schedule: ", "first < last"]),
    "keep 0": ('keep = "1/4"', "keep = 0", [": keep is 0; it must be a share kept, above 0"]),
    "keep above 1": ('keep = "1/4"', "keep = 1.5", [": keep is 3/2", "at most 1"]),
    "keep below 0": ('keep = "1/4"', "keep = -0.5", [".keep is -0.5; it must be a number such as"]),
    "keep by zero": ('keep = "1/4"', 'keep = "1/0"', [".keep is '1/0'; it must be a number such"]),
    "keep not a number": ('keep = "1/4"', "keep = nan", [".keep is nan; it must be a number such"]),
    "keep huge": ('keep = "1/4"', 'keep = "1e999999999"', [".keep is '1e999999999'; it must be"]),
    "keep as bool": ('keep = "1/4"', "keep = true", [".keep is True; it must be a number such as"]),
    "frames 0": ("frames = 2", "frames = 0", [".video: frames is 0", "above 0"]),
    "frames many": ("frames = 2", "frames = 1e9", [".video: frames is", "at most 1000"]),
    "seek": (
        "frames = 2",
        'frames = 2\nseek = "fast"',
        [".video.seek is 'fast'; it can be: exact"],
    ),
    "decoder": (
        "frames = 2",
        'frames = 2\ndecoder = "opencv"',
        [".video.decoder is 'opencv'; it can be: auto, pyav, decord"],
    ),
    "newlines": (
        'keep = "1/4"',
        'keep = "1/4"\nnewlines = "all"',
        [".newlines is 'all'; it can be: share, frame, none"],
    ),
    "summary": ('"mine"', "3", [".summary is 3; it must be text in quotes"]),
    "video as text": ("[video]\nframes = 2", "video = 1", [".video is 1; it must be a table"]),
    "stage not a list": ("[[stage]]", "[stage]", ["mine.toml"]),
    "nothing reduces": (
        'at = "frames"\nmethod = { name = "aim-merge" }',
        'at = "llm"\nmethod = { name = "aim-prune" }\nschedule = { name = "full" }',
        [": keep is 1/4, but no stage reduces before the LLM"],
    ),
    "two before the LLM": (
        "[[stage]]",
        '[[stage]]\nat = "frames"\nmethod = { name = "uniform" }\n[[stage]]',
        ["stages act before the LLM; there can be one"],
    ),
    "not TOML": ("[video]", "[video", [" is not valid TOML: "]),
    "number of 5000 digits": ("frames = 2", "frames = " + "9" * 5000, [" is not valid TOML: "]),
    "nested deeply": ("frames = 2", "frames = " + "[" * 100_000, [" is not valid TOML: "]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_named(tmp_path: Path, mistake: str) -> None:
    old, new, says = MISTAKES[mistake]
    assert old in GOOD
    path = mine(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(SettingError) as caught:
        load_preset(path)
    message = str(caught.value)
    assert message.startswith(path)
    assert all(part in message for part in says)
    assert "\n" not in message
    assert len(message) < len(path) + 300


def test_unknown_name_lists_the_names_and_the_nearest() -> None:
    with pytest.raises(SettingError) as caught:
        load_preset("balancd")
    assert str(caught.value) == (
        "no preset 'balancd'; there are: accurate, aim, balanced, fast, none, random, uniform "
        "(did you mean balanced?), or a path ending in .toml"
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: None, "does not exist"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.write_bytes(b'summary = "\xff"'), "is not UTF-8"),
        (lambda path: path.write_bytes(b"#" * (2 << 20)), "larger than 1 MiB"),
    ],
)
def test_unusable_files(tmp_path: Path, make, says: str) -> None:  # type: ignore[no-untyped-def]  # parametrised by callables
    path = tmp_path / "mine.toml"
    make(path)
    with pytest.raises(SettingError, match=says):
        load_preset(str(path))


def test_a_preset_made_in_python_is_checked_too() -> None:
    good = load_preset("none")
    with pytest.raises(ValueError, match="keep is 2"):
        Preset("x", "x", good.video, Fraction(2))


def test_listing_presets_needs_no_torch() -> None:
    code = (
        "import sys; from tokenreduce.shipped import preset_names, preset_summary\n"
        "assert all(preset_summary(n) for n in preset_names())\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
