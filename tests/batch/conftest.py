"""Rows of a batch for whoever needs some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tokenreduce.batch.rows import Failure, Row, id_of, key_of

SETTINGS = "5e" * 32


def _row(number: int, failed: str | None = None, **changed: Any) -> Row:
    """Row `number`, answered, or failed with that kind; `changed`: fields of it."""
    content = f"{number:064x}"
    question = f"What is in clip {number}?"
    key = key_of(content, question, SETTINGS)
    answer = {"question": question, "answer": f"a star, {number} times", "flops": {"llm": 1.5e12}}
    row = Row(
        id=id_of(key),
        key=key,
        settings=SETTINGS,
        content=content,
        file=f"clips/{number}.mp4",
        question=question,
        status="answered" if failed is None else "failed",
        attempts=1,
        started="2026-01-02T03:04:05.006Z",
        finished="2026-01-02T03:04:06.007Z",
        host="here",
        worker="cuda:0",
        answer=answer if failed is None else None,
        failure=None if failed is None else Failure(failed, "it cannot be read"),
    )
    return replace(row, **changed)


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    """Row number n, the same every time; its keywords are those of `_row`."""
    return _row
