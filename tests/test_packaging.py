"""The package list, the names it takes, and what an installed copy offers."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

import tokenreduce

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_with_code_is_packaged() -> None:
    """setuptools' finder cannot see folders that package-dir moves, so the list is by hand."""
    moved = {folder: name for name, folder in SETTINGS["package-dir"].items()}
    found = set(moved.values())
    for init in (ROOT / "tokenreduce").rglob("__init__.py"):
        found.add(".".join(init.parent.relative_to(ROOT).parts))
    assert sorted(found) == sorted(SETTINGS["packages"])
    for folder in moved:
        assert (ROOT / folder / "__init__.py").is_file()


def test_every_file_that_code_reads_is_packaged() -> None:
    folders = {name: ROOT / name.replace(".", "/") for name in SETTINGS["packages"]}
    folders |= {name: ROOT / folder for name, folder in SETTINGS["package-dir"].items()}
    data = {
        path
        for name, globs in SETTINGS["package-data"].items()
        for glob in globs
        for path in folders[name].glob(glob)
    }
    beside = {
        path
        for folder in folders.values()
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".py"
    }
    assert {"py.typed", "page.html.j2", "page.css", "page.js"} <= {path.name for path in beside}
    assert beside <= data


def test_no_generic_name_reaches_the_import_path() -> None:
    assert all(name.split(".")[0] == "tokenreduce" for name in SETTINGS["packages"])
    probe = (
        "import importlib.util as u; "
        "names = ('cli', 'presets', 'tests', 'benchmarks', 'training'); "
        "print([n for n in names if u.find_spec(n)])"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", probe],
        cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "[]"


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="tokenreduce")
    assert script.value == "tokenreduce.cli:app"
    assert distribution("tokenreduce").version == tokenreduce.__version__


@pytest.mark.skipif(
    "TOKENREDUCE_TEST_INSTALLED" not in os.environ, reason="only make wheel installs a copy"
)
def test_it_is_the_installed_copy_that_is_tested() -> None:
    assert ROOT not in Path(tokenreduce.__file__).parents or "site-packages" in str(
        tokenreduce.__file__
    )


def test_public_names() -> None:
    assert sorted(tokenreduce.__all__) == tokenreduce.__all__
    for name in tokenreduce.__all__:
        assert getattr(tokenreduce, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        tokenreduce.no_such_name  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, tokenreduce; print('torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False"
