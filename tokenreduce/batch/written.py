"""One row of a questions file as it is written, before anything in it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COLUMNS = ("file", "question", "id")
"""The columns that mean something."""


@dataclass(frozen=True, slots=True)
class Written:
    """line: where it begins, from 1; cells: by column, None where there is none."""

    line: int
    cells: dict[str, Any]
