"""What many rows took together; knows nothing about how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tokenreduce.batch.rows import Row


class Totals:
    """Adds up rows, one at a time.

    failures      failed rows by the error's type
    tokens_raw, tokens_merged   visual tokens before any reduction, and that entered the LLM
    seconds       of all answers, of which several may have gone on at once
    flops_saved   of the prefills, against unreduced ones; see docs/json.md
    """

    def __init__(self) -> None:
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self.tokens_raw = self.tokens_merged = 0
        self.seconds = self.flops_saved = 0.0

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def rows(self) -> int:
        return self.answered + self.failed

    def add(self, row: Row) -> None:
        if row.answer is None:
            self.failures[row.failure.kind if row.failure else "unknown"] += 1
            return
        self.answered += 1
        self.tokens_raw += int(_number(row.answer, "tokens", "raw"))
        self.tokens_merged += int(_number(row.answer, "tokens", "merged"))
        self.seconds += _number(row.answer, "seconds", "total")
        self.flops_saved += flops_saved(row.answer)


def flops_saved(answer: Mapping[str, Any]) -> float:
    """Of an answer's prefill, against the unreduced one; below 0 where the reduction costs more."""
    spent = _number(answer, "flops", "llm") + _number(answer, "flops", "overhead")
    return _number(answer, "flops", "llm_unreduced") - spent


def said(answer: Mapping[str, Any], part: str, name: str) -> float | None:
    """A figure of the object of `ask --json`; None where one of another version does not say."""
    value = (answer.get(part) or {}).get(name)
    return value if isinstance(value, (int, float)) else None


def _number(answer: Mapping[str, Any], part: str, name: str) -> float:
    return said(answer, part, name) or 0.0
