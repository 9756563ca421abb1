"""Bad input through the whole command, the real pipeline included: one line, exit 2, no traceback.

What each kind of file is refused for is tested where the decoder is; here, that it arrives.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import Result

Run = Callable[..., Result]
Process = Callable[..., subprocess.CompletedProcess[str]]


def refusal(result: Result) -> str:
    """The one line, and that nothing else happened."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"just text\n" * 100, "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", "not a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
    ],
)
def test_files_that_are_no_video(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    line = refusal(run("ask", str(path), "Q", "--model", "demo", "--quiet"))
    assert says in line
    assert "clip.mp4" in line


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("audio only", "has no video, only audio"),
        ("unknown codec", "codec"),
        ("no index", "missing or damaged"),
        ("huge frames", "above the allowed 64 million pixels"),
    ],
)
def test_videos_that_are_broken(
    run: Run, spoilt: Callable[..., Path], kind: str, says: str
) -> None:
    path = spoilt(kind)
    line = refusal(run("ask", str(path), "Q", "--model", "demo", "--quiet"))
    assert says in line
    assert line.startswith(f"error: {path}: ")


def test_a_truncated_video_answers_with_what_is_left(run: Run, spoilt: Callable[..., Path]) -> None:
    options = ["--model", "demo", "--frames", "60", "--json"]
    done = run("ask", str(spoilt("truncated")), "What colour is the star?", *options)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    sampled = result["frames"]["decoded"] + result["frames"]["repeats"]
    assert 1 < sampled < result["frames"]["requested"] == 60
    (told,) = result["warnings"]
    assert told.startswith("the file ends or is damaged at ")
    assert told.endswith(f"answered from the {sampled} frames up to there, of 60 asked for")
    assert f"warning: {told}" in done.stderr


def test_what_is_no_file(run: Run, tmp_path: Path) -> None:
    assert "no such file" in refusal(run("ask", "/no/such.mp4", "Q", "--model", "demo", "--quiet"))
    assert "directory" in refusal(run("ask", str(tmp_path), "Q", "--model", "demo", "--quiet"))
    assert "http" in refusal(
        run("ask", "http://127.0.0.1:9/a.mp4", "Q", "--model", "demo", "--quiet")
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "no-such-model"], "no model is called 'no-such-model'"),
        (["--model", "./no-such-folder"], "no-such-folder"),
        (["--model", "demo", "--revision", "v1"], "revision"),
        (["--model", "demo", "--preset", "fats"], "no preset 'fats'; there are: accurate"),
        (["--model", "demo", "--preset", "no/such.toml"], "no/such.toml does not exist"),
        (["--model", "demo", "--preset", "none", "--budget", "5"], "preset"),
    ],
)
def test_settings_that_cannot_be(run: Run, arguments: list[str], says: str) -> None:
    # The file does not exist either: whatever can be refused before it is looked at, is.
    assert says in refusal(run("ask", __file__, "Q", "--quiet", *arguments))


@pytest.mark.parametrize("extra", [[], ["--frames", "100000", "--budget", "99999999"]])
def test_more_than_the_context_holds(run: Run, tiny_video: Path, extra: list[str]) -> None:
    """Counted with the frames the file really has, and refused before any is decoded."""
    arguments = ["--model", "demo", "--max-new-tokens", "8050", *extra]
    line = refusal(run("ask", str(tiny_video), "Q", "--quiet", *arguments))
    assert "exceed the 8192 that demo can hold" in line
    assert "--budget" in line or "fewer --frames" in line


def test_a_preset_with_a_typo(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('summary = "x"\nkeep = 1\n[video]\nframse = 1\n')
    line = refusal(run("ask", __file__, "Q", "--model", "demo", "--preset", str(path), "--quiet"))
    assert f"{path}.video: no key 'framse'; there are: decoder, frames, seek" in line


def give_up_privileges() -> None:
    """Makes file permissions bind root as well, from the next exec on."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "cannot give up a capability")


# Nobody cannot start an interpreter that is installed in root's home; root without the two
# capabilities can. A container may allow either, both or none.
NOBODY = 65534
WAYS: tuple[Mapping[str, Any], ...] = (
    {"user": NOBODY, "group": NOBODY, "extra_groups": []},
    {"preexec_fn": give_up_privileges},
)


@pytest.fixture(scope="module")
def powerless(command: list[str]) -> Mapping[str, Any]:
    """What makes a child of this process one that file permissions bind."""
    if os.geteuid() != 0:
        return {}
    for way in WAYS:
        try:
            done = subprocess.run([*command, "--version"], capture_output=True, check=False, **way)
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0:
            return way
    pytest.skip("root, who can neither become nobody here nor give up capabilities")


@pytest.fixture
def as_anyone(process: Process, powerless: Mapping[str, Any], tmp_path: Path) -> Process:
    """The command bound by file permissions, whoever runs the tests."""
    # The folders of pytest are its user's alone.
    for folder in [tmp_path, *list(tmp_path.parents)[:2]]:
        folder.chmod(0o755)

    def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return process(*arguments, env=os.environ | variables, **powerless)

    return start


def test_a_file_that_may_not_be_read(as_anyone: Process, tmp_path: Path) -> None:
    path = tmp_path / "private.mp4"
    path.write_bytes(b"x" * 1000)
    path.chmod(0)
    done = as_anyone("ask", str(path), "Q", "--model", "demo", "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "ermission" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written(
    run: Run, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write fails where the hub's client would write: no network is needed to get there."""
    cache = tmp_path / "cache"

    def download(repo: str, **options: Any) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(cache / repo))

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert refusal(run("ask", str(tiny_video), "Q", "--quiet")) == (
        "error: lmms-lab/LLaVA-Video-7B-Qwen2: cannot be downloaded into "
        f"{cache}: Permission denied\n"
    )


def test_a_preset_and_a_configuration_that_may_not_be_read(
    as_anyone: Process, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 1")
    path.chmod(0)
    for options, variables in (
        (["--preset", str(path)], {}),
        ([], {"TOKENREDUCE_CONFIG": str(path)}),
    ):
        done = as_anyone("ask", __file__, "Q", "--model", "demo", "--quiet", *options, **variables)
        assert done.returncode == 2
        assert done.stderr == f"error: {path} cannot be read: Permission denied\n"
