"""What can be said of each method, read off the methods themselves: nothing is written twice.

The idea is the first sentence of a class's docstring, the paper what its module's docstring names;
a module whose docstring begins with "Control" or "A control" holds such, and one that says "this
project's own" has no paper.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields
from textwrap import dedent
from typing import Any

from tokenreduce.errors import SettingError
from tokenreduce.methods import METHODS
from tokenreduce.paradigm import Site
from tokenreduce.recipes import COMPOSITIONS, FEWER_FRAMES, recipe_names, stages_of
from tokenreduce.strict import unknown

_PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")
_SITES: tuple[Site, ...] = ("encoder", "frames", "clip", "llm")


@dataclass(frozen=True)
class Facts:
    """sites: where it can act, in the order tokens pass them. paper: "arXiv ..." or "". options:
    its fields and their defaults, as a preset writes them. text: its whole documentation."""

    name: str
    idea: str
    sites: tuple[Site, ...]
    paper: str
    options: tuple[str, ...]
    text: str


def facts(name: str) -> Facts:
    """Of a method, a composition or a control. Raises SettingError for a name there is not."""
    if name not in recipe_names():
        raise SettingError(unknown("method", name, recipe_names()))
    if name in METHODS:
        return _of_method(name)
    if name == FEWER_FRAMES:
        idea = "control: as many whole frames as the budget holds, nothing reduced"
        return Facts(name, idea, (), "", (), idea)
    parts = [_of_method(part) for _, part in COMPOSITIONS[name]]
    idea = " + ".join(part.name for part in parts) or "the unreduced model"
    papers = list(dict.fromkeys(part.paper for part in parts if part.paper))
    acting = [f"{s.at}: {part.name}" for s, part in zip(stages_of(name), parts, strict=True)]
    sites = tuple(stage.at for stage in stages_of(name))
    return Facts(name, idea, sites, ", ".join(papers), (), "\n".join([idea, *acting]))


def _of_method(name: str) -> Facts:
    kind: Any = METHODS[name]
    text = dedent(inspect.cleandoc(kind.__doc__ or ""))
    module = inspect.getmodule(kind)
    about = inspect.cleandoc((module.__doc__ if module else None) or "")
    found = _PAPER.search(text) or _PAPER.search(about)
    options = tuple(f"{f.name} = {f.default}" for f in fields(kind))
    sites = tuple(site for site in _SITES if site in kind().sites)
    idea = " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
    control = about.lower().removeprefix("a ").startswith("control")
    own = "this project's own" in about
    paper = f"arXiv {found.group(1)}" if found and not control and not own else ""
    idea = f"control: {idea[0].lower()}{idea[1:]}" if control else idea
    return Facts(name, idea, sites, paper, options, f"{about}\n\n{text}")


def table() -> list[Facts]:
    """All of them: methods and compositions with a paper by name, then our own and controls."""
    every = [facts(name) for name in recipe_names()]
    return sorted(every, key=lambda one: (one.paper == "", one.name))


def markdown() -> str:
    """The table of the README."""
    rows = ["| name | acts | idea | paper |", "|---|---|---|---|"]
    for one in table():
        paper = ", ".join(
            f"[{p.removeprefix('arXiv ')}](https://arxiv.org/abs/{p.removeprefix('arXiv ')})"
            for p in one.paper.split(", ")
            if p
        )
        rows.append(f"| `{one.name}` | {', '.join(one.sites)} | {one.idea} | {paper} |")
    return "\n".join(rows) + "\n"
