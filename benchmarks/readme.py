"""Writes the tables in README.md and docs/methods.md from the registry and from measured JSON.

    python -m benchmarks.readme

Measures nothing. What stands between the marks is never written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT
from tokenreduce.catalogue import markdown

README = ROOT / "README.md"
METHODS = ROOT / "docs" / "methods.md"

Cell = Mapping[str, Any]


def main() -> None:
    for path in (README, METHODS):
        path.write_text(renewed(path), encoding="utf-8")


def renewed(path: Path) -> str:
    """The page's text with today's tables. Raises ValueError if a mark has lost its end."""
    text = path.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        before, mark, rest = text.partition(begin)
        if not mark:
            continue
        _, close, after = rest.partition(end)
        if not close:
            raise ValueError(f"{path.name}: the table {name} has no end mark")
        text = f"{before}{begin}{table()}{end}{after}"
    return text


def _cells(name: str = "accuracy") -> list[Cell]:
    found: list[Cell] = json.loads((RESULTS / f"{name}.json").read_text())["result"]["cells"]
    return found


def at_16(what: str) -> str:
    """A line a method, a column a share kept: its accuracy on `what`, best share first."""
    cells = [cell for cell in _cells() if cell["frames"] == 16]
    shares = sorted({cell["share"] for cell in cells}, reverse=True)
    by_method: dict[str, dict[float, Cell]] = {}
    for cell in cells:
        by_method.setdefault(cell["method"], {})[cell["share"]] = cell
    best = {
        share: max(
            (
                own[share][what]["value"]
                for m, own in by_method.items()
                if share in own and "refused" not in own[share] and m != "none"
            ),
            default=0.0,
        )
        for share in shares
    }
    rows = ["| method | " + " | ".join(f"{share:.3g}" for share in shares) + " |"]
    rows.append("|---" * (len(shares) + 1) + "|")
    order = sorted(by_method, key=lambda m: _standing(by_method[m], what), reverse=True)
    for method in order:
        shown = [_shown(by_method[method].get(share), what, best[share]) for share in shares]
        rows.append(f"| `{method}` | " + " | ".join(shown) + " |")
    return "\n".join(rows) + "\n"


def _standing(own: Mapping[float, Cell], what: str) -> float:
    """The mean over the harder shares, for the order of the rows."""
    values = [c[what]["value"] for s, c in own.items() if s < 0.2 and "refused" not in c]
    return sum(values) / len(values) if values else float("-inf") if 1.0 not in own else 2.0


def _shown(cell: Cell | None, what: str, best: float) -> str:
    if cell is None:
        return ""
    if "refused" in cell:
        return "-"
    one = cell[what]
    text = f"{one['value']:.3f} ± {(one['high'] - one['low']) / 2:.3f}"
    return f"**{text}**" if one["value"] == best else text


def by_frames(what: str) -> str:
    """A line for each method and share at 8, 16, 32 and 64 frames."""
    cells = [cell for cell in _cells() if "refused" not in cell]
    counts = sorted({cell["frames"] for cell in cells})
    methods = list(dict.fromkeys(c["method"] for c in cells if c["frames"] != 16))
    rows = ["| method | share | " + " | ".join(f"{n} frames" for n in counts) + " |"]
    rows.append("|---" * (len(counts) + 2) + "|")
    for method in methods:
        own = [cell for cell in cells if cell["method"] == method]
        for share in sorted({c["share"] for c in own}, reverse=True):
            found = {c["frames"]: c for c in own if c["share"] == share}
            if len(found) > 1:
                shown = [_shown(found.get(n), what, -1.0) for n in counts]
                rows.append(f"| `{method}` | {share:.3g} | " + " | ".join(shown) + " |")
    return "\n".join(rows) + "\n"


def costs_before() -> str:
    """A line a method and site before the LLM; those where it acts by itself, cheapest first."""
    parts: dict[str, Any] = json.loads((RESULTS / "methods.json").read_text())["result"]
    sizes = {int(name.split()[0]): part for name, part in parts.items() if "before" in name}
    names = sorted(sizes[min(sizes)], key=lambda name: _median(sizes[min(sizes)][name]))
    heads = [f"{n} frames: seconds | MB | share of FLOPs saved" for n in sorted(sizes)]
    rows = ["| method, site | " + " | ".join(heads) + " |", "|---" * (3 * len(sizes) + 1) + "|"]
    for name in names:
        shown = [_cost(sizes[n][name], "flops_share") for n in sorted(sizes)]
        rows.append(f"| `{name.split('/')[0]}`, {name.split('/')[1]} | {' | '.join(shown)} |")
    return "\n".join(rows) + "\n"


def costs_inside() -> str:
    """A line a method inside the LLM: one layer, and its share of the prefill it saves."""
    parts: dict[str, Any] = json.loads((RESULTS / "methods.json").read_text())["result"]
    inside = next(part for name, part in parts.items() if "inside" in name)
    rows = ["| method | seconds, one layer | MB | layers that choose | share of FLOPs saved |"]
    rows.append("|---" * 5 + "|")
    for name in sorted(inside, key=lambda name: _median(inside[name])):
        one = inside[name]
        seconds, megabytes, share = _cost(one, "flops_share").split(" | ")
        layers = f"{one['runs_in_a_prefill']:.1f}"
        rows.append(f"| `{name.split('/')[0]}` | {seconds} | {megabytes} | {layers} | {share} |")
    return "\n".join(rows) + "\n"


def _median(one: Cell) -> float:
    return float(one["wall_seconds"]["median"])


def _cost(one: Cell, share: str) -> str:
    saved = 100 * one[share]
    told = "0" if not saved else "< .01 %" if saved < 0.01 else f"{saved:.2g} %"
    return f"{_median(one):.2g} | {one['peak_bytes'] / 1e6:.0f} | {told}"


TABLES: dict[str, Callable[[], str]] = {
    "methods": markdown,
    "accuracy": lambda: at_16("all"),
    "needles": lambda: at_16("needles"),
    "frames": lambda: by_frames("needles"),
    "costs": costs_before,
    "costs inside": costs_inside,
}


if __name__ == "__main__":
    main()
