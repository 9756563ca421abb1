"""Writes the tables of docs/performance.md from results/gpu.json, if there is one.

    python -m benchmarks.gpu_page

Measures nothing. What stands between the marks is never written by hand; a row that no GPU has
given a figure for says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import ROWS, SECTIONS, told
from benchmarks.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
RESULT = RESULTS / "gpu.json"
NOT_MEASURED = "not measured"

Result = Mapping[str, Any]
"""Sections by name, as results/gpu.json holds them."""


def main() -> None:
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), read(RESULT)), encoding="utf-8")


def read(path: Path) -> Result:
    """What was measured; nothing where there is no such file, or where it is of the tiny model."""
    if not path.exists():
        return {}
    found: Result = json.loads(path.read_text())["result"]
    return {name: section for name, section in found.items() if not section["tiny"]}


def renewed(page: str, result: Result) -> str:
    """The page with the tables of `result`. Raises ValueError where a mark is missing."""
    for name, table in TABLES.items():
        begin, end = f"<!-- gpu: {name} -->\n", f"<!-- end: {name} -->"
        before, mark, rest = page.partition(begin)
        _, close, after = rest.partition(end)
        if not mark or not close:
            raise ValueError(f"the page has no marks for the table {name}")
        page = f"{before}{begin}{table(result)}{end}{after}"
    return page


def rows(result: Result) -> str:
    """Every row, measured or not."""
    lines = ["| section | what | wanted | measured | |", "|---|---|---|---|---|"]
    for row in ROWS:
        found = result.get(row.section, {}).get("rows", {}).get(row.key)
        figure = NOT_MEASURED if found is None else told(found["figure"], row.unit)
        met = None if found is None else found["met"]
        state = {True: "met", False: "**not met**", None: ""}[met]
        lines.append(f"| `{row.section}` | {row.what} | {row.wanted} | {figure} | {state} |")
    return "\n".join(lines) + "\n"


def places(result: Result) -> str:
    """When, on what and from which commit each section is."""
    if not result:
        return "No section has been run on a GPU yet.\n"
    lines = ["| section | date | commit | card | driver | torch | took |", "|---" * 7 + "|"]
    for name in SECTIONS:
        if (section := result.get(name)) is None:
            continue
        card = section["card"]
        memory = f", {card['memory_bytes'] / (1 << 30):.0f} GiB" if "memory_bytes" in card else ""
        lines.append(
            f"| `{name}` | {section['date']} | `{section['commit']}` | {card['name']}{memory} | "
            f"{card.get('driver')} | {card.get('torch')} | {section['seconds']:.0f} s |"
        )
    return "\n".join(lines) + "\n"


TABLES: Mapping[str, Callable[[Result], str]] = {"rows": rows, "places": places}


if __name__ == "__main__":
    main()
