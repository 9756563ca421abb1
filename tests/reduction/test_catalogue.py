"""What is said of methods comes from the methods: the README's table, and a new method's entry."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from tokenreduce.budget import Layout
from tokenreduce.catalogue import facts, table
from tokenreduce.errors import SettingError
from tokenreduce.methods import METHODS
from tokenreduce.paradigm import reduce
from tokenreduce.recipes import recipe_names, stages_of
from tokenreduce.seen import Seen
from tokenreduce.tokens import Tokens

ROOT = Path(__file__).resolve().parents[2]

UNPUBLISHED = {"none", "uniform", "random", "pooling", "fewer-frames"} | {
    "drift",
    "drift-merge",
    "ask-prune",
}

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
    assert 10 < len(found.idea) < 270
    assert found.paper or name in UNPUBLISHED
    assert all(stage.at in found.sites for stage in stages_of(name))


def test_every_method_names_its_repository() -> None:
    for name in METHODS:
        if facts(name).paper:
            assert "fficial repositor" in " ".join(facts(name).text.split()), name


def test_a_name_there_is_not() -> None:
    with pytest.raises(SettingError, match=r"no method 'fastvv'; there are: .* mean fastv"):
        facts("fastvv")


def test_a_new_method_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "toy.py"
    path.write_text(TOY)
    spec = importlib.util.spec_from_file_location("toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "toy", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, "toy", module.Toy)  # the one line
    assert "toy" in recipe_names()
    (stage,) = stages_of("toy")
    assert stage.at == "frames"
    found = facts("toy")
    assert found.idea == "Keeps the tokens of the largest norm"
    assert (found.paper, found.options) == ("arXiv 1234.56789", ("power = 2.0",))
    assert found in table()
    x = torch.arange(1, 9).float().view(1, 8, 1)
    left = reduce(module.Toy(), Seen(Tokens.fresh(x), x, Layout(1, 2, 4)), 3)
    assert left.place.tolist() == [[5, 6, 7]]
