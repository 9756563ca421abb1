"""Bad input through the whole command, the real pipeline included: one line, exit 2, no traceback.

What each kind of file is refused for is tested where the decoder is; here, that it arrives.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
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
    line = refusal(run("ask", str(path), "Q", "--model", "demo", "-q"))
    assert says in line
    assert "clip.mp4" in line


def test_what_is_no_file(run: Run, tmp_path: Path) -> None:
    assert "no such file" in refusal(run("ask", "/no/such.mp4", "Q", "--model", "demo", "-q"))
    assert "directory" in refusal(run("ask", str(tmp_path), "Q", "--model", "demo", "-q"))
    assert "http" in refusal(run("ask", "http://127.0.0.1:9/a.mp4", "Q", "--model", "demo", "-q"))


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
    assert says in refusal(run("ask", "/no/such.mp4", "Q", "-q", *arguments))


@pytest.mark.parametrize("extra", [[], ["--frames", "100000", "--budget", "99999999"]])
def test_more_than_the_context_holds(run: Run, tiny_video: Path, extra: list[str]) -> None:
    """Counted with the frames the file really has, and refused before any is decoded."""
    arguments = ["--model", "demo", "--max-new-tokens", "8050", *extra]
    line = refusal(run("ask", str(tiny_video), "Q", "-q", *arguments))
    assert "exceed the 8192 that demo can hold" in line
    assert "--budget" in line or "sample fewer frames" in line


def test_a_preset_with_a_typo(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('summary = "x"\nkeep = 1\n[video]\nframse = 1\n')
    line = refusal(run("ask", "a.mp4", "Q", "--model", "demo", "--preset", str(path), "-q"))
    assert f"{path}.video: no key 'framse'; there are: decoder, frames, seek" in line


def give_up_privileges() -> None:
    """Makes file permissions bind root as well, from the next exec on.

    The capabilities go and not the uid: an interpreter installed in root's home stays usable.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "cannot give up a capability")


@pytest.fixture
def as_anyone(process: Process) -> Process:
    """The command bound by file permissions, whoever runs the tests."""
    if sys.platform != "linux" and os.getuid() == 0:
        pytest.skip("run the tests as an ordinary user here")
    drop = {"preexec_fn": give_up_privileges} if os.getuid() == 0 else {}

    def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return process(*arguments, env=os.environ | variables, **drop)

    return start


def test_a_file_that_may_not_be_read(as_anyone: Process, tmp_path: Path) -> None:
    path = tmp_path / "private.mp4"
    path.write_bytes(b"x" * 1000)
    path.chmod(0)
    done = as_anyone("ask", str(path), "Q", "--model", "demo", "-q")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "ermission" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written(as_anyone: Process, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    done = as_anyone(
        "ask", "a.mp4", "Q", "-q", HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1", HF_HOME=str(cache)
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: lmms-lab/LLaVA-Video-7B-Qwen2: ")
    assert str(cache) in done.stderr
    assert done.stderr.count("\n") == 1


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
        done = as_anyone("ask", "a.mp4", "Q", "--model", "demo", "-q", *options, **variables)
        assert done.returncode == 2
        assert done.stderr == f"error: {path} cannot be read: Permission denied\n"
