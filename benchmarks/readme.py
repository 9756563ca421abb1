"""Writes the README's table of methods from the registry; measures nothing.

python -m benchmarks.readme
"""

from __future__ import annotations

from pathlib import Path

from tokenreduce.catalogue import markdown

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- methods: written by `make readme`, held to the registry by a test -->\n"
END = "<!-- end of methods -->"


def renewed(text: str) -> str:
    """The README's text with today's table. Raises ValueError if its marks are gone."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError("README.md has lost the marks around its table of methods")
    return f"{before}{BEGIN}{markdown()}{END}{after}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
