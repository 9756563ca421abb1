"""What is said of methods comes from the methods: the README's table, and a new method's entry."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tokenreduce.catalogue import facts
from tokenreduce.errors import SettingError
from tokenreduce.methods import METHODS
from tokenreduce.recipes import COMPOSITIONS, FEWER_FRAMES, recipe_names, stages_of

ROOT = Path(__file__).resolve().parents[2]

TOY = '''"""Toy: the brightest tokens.

Nobody et al., "A Toy", arXiv 1234.56789. Official repository: none.
"""

from dataclasses import dataclass
from typing import ClassVar

from tokenreduce.paradigm import Site
from tokenreduce.schedule import Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.steps import at_once, nowhere, once, prune
from tokenreduce.tokens import Split


@dataclass(frozen=True)
class Toy:
    """Keeps the tokens of the largest norm. Ties go to the lower index."""

    sites: ClassVar[frozenset[Site]] = frozenset({"frames"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    usual: ClassVar[Schedule | None] = None
    rounds = staticmethod(once)
    correlate = staticmethod(nowhere)
    compress = staticmethod(prune)
    work = staticmethod(at_once)
    power: float = 2.0

    def filter(self, seen: Seen, keep: int) -> Split:
        return Split.of_score(seen.tokens.x.norm(self.power, dim=-1), keep)
'''


def test_the_tables_are_today_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    readme = importlib.import_module("benchmarks.readme")
    for path in (readme.README, readme.METHODS):
        text = path.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert readme.renewed(path) == text, "run make readme"


@pytest.mark.parametrize("name", recipe_names())
def test_every_name_is_described(name: str) -> None:
    found = facts(name)
    assert 10 < len(found.idea) < 150
    assert all(stage.at in found.sites for stage in stages_of(name))


@pytest.mark.parametrize("name", METHODS)
def test_what_was_published_names_its_paper_and_its_repository(name: str) -> None:
    """And what was not, neither: a control, or our own."""
    found = facts(name)
    text = " ".join(found.text.split())
    own = "this project's own" in text.split(". ")[0]
    assert bool(found.paper) == ("fficial repository: " in text)
    assert bool(found.paper) != (own or found.idea.startswith("control: "))
    if found.paper:  # where in it, or that nobody could look
        cited = text[text.index("arXiv ") : text.index("fficial repository: ")]
        assert re.search(r"\bsections? (\d|not verified)", cited), cited


def test_a_composition_has_the_papers_of_its_parts() -> None:
    for name, parts in COMPOSITIONS.items():
        papers = {facts(part).paper for _, part in parts} - {""}
        assert set(facts(name).paper.split(", ")) - {""} == papers
    assert facts("ficoco-vl").paper == "arXiv 2411.17686"
    assert facts(FEWER_FRAMES).paper == ""


def test_a_name_there_is_not() -> None:
    with pytest.raises(SettingError, match=r"no method 'fastvv'; there are: .* mean fastv"):
        facts("fastvv")


def test_a_new_method_is_one_file_and_one_line(tiny_video: Path, tmp_path: Path) -> None:
    """Added to a copy of the package as CONTRIBUTING.md says; the command and the contracts know
    it."""
    copy = tmp_path / "tokenreduce"
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tokenreduce", copy, ignore=leave)
    for moved in ("cli", "presets"):  # where an installed copy has them
        shutil.copytree(ROOT / moved, copy / moved, ignore=leave)
    (copy / "methods" / "toy.py").write_text(TOY)
    registry = copy / "methods" / "__init__.py"
    before, mark, after = registry.read_text().partition("_CLASSES = {\n")
    assert mark
    registry.write_text(f'{before}{mark}    "toy": "toy.Toy",\n{after}')

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "TOKENREDUCE_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command = ("-c", "from tokenreduce.cli import app; app()")
    shown = run(*command, "methods", "show", "toy")
    assert "Keeps the tokens of the largest norm" in shown
    assert "arXiv 1234.56789" in shown
    assert "power = 2.0" in shown
    contracts = ROOT / "tests" / "reduction" / "test_methods.py"
    told = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "toy", str(contracts))
    assert " passed" in told
    question = ("What is it?", "--model", "demo", "--frames", "4", "--budget", "50")
    answer = run(*command, "ask", str(tiny_video), *question, "--method", "toy", "--json")
    assert json.loads(answer)["method"] == "toy"
