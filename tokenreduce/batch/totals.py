"""What many rows took together; knows nothing about how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tokenreduce.batch.rows import Row

STAGES = ("load", "digest", "decode", "encode", "reduce", "prefill", "generate")
"""The parts of an answer's `seconds` that add up, in the order in which they happen."""


class Sums:
    """What answers took together.

    seconds        by part, of STAGES; total: of whole answers, several of which may go on at once
    raw, merged    visual tokens before and after merging
    unreduced      FLOPs of the LLM had nothing been reduced; spent: what it took, overhead included
    device_peak, host_peak   bytes, the largest of any row; None if no row told
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.total = 0.0
        self.raw = self.merged = 0
        self.unreduced = self.spent = 0.0
        self.device_peak: int | None = None
        self.host_peak: int | None = None

    def add(self, answer: Mapping[str, Any]) -> None:
        """The object of `ask --json`. What it lacks counts as nothing: an answer that was recorded
        must not end the run because it cannot be shown."""
        for stage in STAGES:
            self.seconds[stage] += _number(answer, "seconds", stage)
        self.total += _number(answer, "seconds", "total")
        self.raw += int(_number(answer, "tokens", "raw"))
        self.merged += int(_number(answer, "tokens", "merged"))
        self.unreduced += _number(answer, "flops", "llm_unreduced")
        self.spent += _spent(answer)
        self.device_peak = _larger(self.device_peak, answer, "device_peak")
        self.host_peak = _larger(self.host_peak, answer, "host_peak")


class Totals:
    """Rows by how they ended, and what the answers took. failures: by the error's type."""

    def __init__(self) -> None:
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self.sums = Sums()

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
        self.sums.add(row.answer)


def flops_saved(answer: Mapping[str, Any]) -> float:
    """Of an answer's prefill, against the unreduced one; below 0 where the reduction costs more."""
    return _number(answer, "flops", "llm_unreduced") - _spent(answer)


def said(answer: Mapping[str, Any], part: str, name: str) -> float | None:
    """A figure of the object of `ask --json`; None where one of another version does not say."""
    value = (answer.get(part) or {}).get(name)
    return value if isinstance(value, (int, float)) else None


def _number(answer: Mapping[str, Any], part: str, name: str) -> float:
    return said(answer, part, name) or 0.0


def _spent(answer: Mapping[str, Any]) -> float:
    return _number(answer, "flops", "llm") + _number(answer, "flops", "overhead")


def _larger(so_far: int | None, answer: Mapping[str, Any], name: str) -> int | None:
    value = said(answer, "memory_bytes", name)
    return so_far if value is None else max(so_far or 0, int(value))
