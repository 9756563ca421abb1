"""What is taken to a machine without a package index works there, without an installation."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def carry() -> ModuleType:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("benchmarks.gpu_carry")
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def archive(carry: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("carry") / "carry.tar.xz"
    assert carry.pack(path, "130", ("pysubs2", "platformdirs")) == path.stat().st_size
    return path


def absent(name: str) -> None:
    """As a machine without it says."""


def test_what_was_missing_is_found(
    carry: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a Python without any installed package."""
    monkeypatch.setattr(carry, "installed_version", absent)
    for folder in carry.MEASURED:
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    here = tmp_path / "carry.tar.xz"
    shutil.copy(archive, here)
    for _ in range(2):  # a second time changes nothing
        lines = carry.unpack(here, tmp_path)
    asks = (
        "import platformdirs, pysubs2; from importlib.util import find_spec as find; "
        "from importlib.metadata import requires; assert requires('tokenreduce'); "
        "places = [find(f'tokenreduce.{name}').origin for name in ('cli', 'presets')]; "
        "print(platformdirs.__file__, pysubs2.__file__, *places)"
    )
    script = f'{lines}\n"$PYTHON" -S -c "{asks}"\nprintf "%s" "$COMMIT" >&2; command -v tokenreduce'
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "PYTHON": sys.executable
    }
    done = subprocess.run(
        ["sh", "-uc", script],
        check=False,
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [Path(one).is_relative_to(tmp_path) for one in done.stdout.split()] == [True] * 5
    assert done.stderr == carry.record.commit()


def test_the_commit_of_another_checkout_is_not_taken(
    carry: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "carry.tar.xz"
    shutil.copy(archive, here)
    (tmp_path / "tokenreduce").mkdir()
    assert carry.unpack(here, tmp_path).endswith("export COMMIT=unknown")
    assert "the code here is another: pack again" in capsys.readouterr().err


def test_a_digest_is_of_the_code_alone(carry: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "cli"
    folder.mkdir()
    (folder / "ask.py").write_text("1")
    (tmp_path / "tokenreduce").mkdir()
    before = carry.digest(tmp_path)
    (tmp_path / "tokenreduce" / "cli").symlink_to(folder, target_is_directory=True)
    (folder / "ask.pyc").write_text("2")
    assert carry.digest(tmp_path) == before
    (folder / "ask.py").write_text("2")
    changed = carry.digest(tmp_path)
    (folder / "ask.py").rename(folder / "asks.py")
    assert len({before, changed, carry.digest(tmp_path)}) == 3


def test_what_is_there_stays(
    carry: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "carry.tar.xz"
    shutil.copy(archive, here)
    (tmp_path / "tokenreduce").mkdir()
    monkeypatch.setattr(
        carry, "installed_version", {"pysubs2": "1.7.3", "platformdirs": "4.0"}.__getitem__
    )
    carry.unpack(here, tmp_path)
    # pysubs2 was older than wanted.
    site = tmp_path / "gpu-carried"
    assert (site / "pysubs2" / "__init__.py").exists()
    assert not (site / "platformdirs").exists()


def test_what_another_python_compiled_is_left(
    carry: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(carry, "installed_version", absent)
    foreign = {"least": "", "files": ["some/code.cpython-38-x86_64-linux-gnu.so"]}
    assert not carry.missing("some", foreign)
    assert "some is compiled for another Python" in capsys.readouterr().err
    own = f"some/code.{sys.implementation.cache_tag}-x86_64-linux-gnu.so"
    assert carry.missing("some", {"least": "", "files": [own]})
    assert carry.missing("some", {"least": "", "files": ["some/code.abi3.so"]})


def test_of_many_libraries_two_are_taken(carry: ModuleType) -> None:
    files = carry.files_of(metadata.distribution("bitsandbytes"), "130")
    names = {file.name for file in files}
    libraries = {name for name in names if name.startswith("libbitsandbytes")}
    assert libraries == {"libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so"}
    assert {"METADATA", "functional.py"} <= names
    assert not {name for name in names if name.endswith(".pyc")}


def test_everything_that_is_taken_is_installed_here(carry: ModuleType) -> None:
    for name in carry.CARRIED:
        assert list(carry.files_of(metadata.distribution(name), "130")), name


def test_what_still_lacks_is_told(carry: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(carry.lacking()) == []
    here = dict.fromkeys(carry.least(), "99") | {"typer": "0.9.4", "rich": None}
    monkeypatch.setattr(carry, "installed_version", here.__getitem__)
    typer, rich = carry.lacking()
    assert typer.startswith("typer 0.9.4, and 0.")
    assert rich.startswith("rich is absent, and ")


@pytest.mark.parametrize(
    ("here", "lowest", "is_older"),
    [("0.9.1", "0.28", True), ("2.11.0+cu130", "2.6", False), ("18.1.0", "18", False)],
)
def test_versions_are_compared(carry: ModuleType, here: str, lowest: str, is_older: bool) -> None:
    assert carry.older(here, lowest) is is_older
    assert not carry.older(here, "")
