"""A worker before its first task: what it says of its model and its device."""

from __future__ import annotations

import pytest

from tokenreduce.batch import messages as m
from tokenreduce.batch.jobs import Task
from tokenreduce.batch.recipe import Recipe
from tokenreduce.batch.worker import Setup, serve
from tokenreduce.models.base import Sampling
from tokenreduce.occupant import Placing
from tokenreduce.plan import Overrides
from tokenreduce.room import NO_LIMIT, Allowed


class Nothing:
    """No task ever comes."""

    stopping = False

    def get(self, *, block: bool) -> Task | None:
        return None


def served(model: str, allowed: Allowed = NO_LIMIT) -> list[m.Message]:
    placing = Placing(device="cpu")
    recipe = Recipe.of(model, "fast", Overrides(), Sampling(8), placing, None, None, allowed)
    told: list[m.Message] = []
    serve(Setup("w", recipe), Nothing(), told.append)
    return told


@pytest.mark.parametrize("slow", [None, "only slow attention"])
def test_it_says_that_it_is_ready_and_what_to_know(
    slow: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenreduce.models.device_check.slow_attention", lambda *_: slow)
    (ready,) = served("demo")
    assert isinstance(ready, m.Ready)
    assert (ready.worker, ready.device, ready.host) == ("w", "cpu", None)
    assert ready.told == (() if slow is None else (slow,))


def test_a_limit_that_is_not_known_is_told() -> None:
    (ready,) = served("demo", Allowed("auto"))
    assert isinstance(ready, m.Ready)
    (told,) = ready.told
    assert told.startswith("--vram auto: nothing limits the memory")


def test_a_model_that_cannot_be_loaded_is_the_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        from tokenreduce.errors import CapacityError

        raise CapacityError("the card\nis too small")

    monkeypatch.setattr("tokenreduce.models.load.load", refuse)
    (died,) = served("demo")
    assert died == m.Died("w", "the card is too small", "CapacityError")
