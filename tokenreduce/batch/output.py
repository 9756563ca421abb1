"""An output to work on: its lock, its ledger and its JSONL, opened together for certain settings.

Knows nothing of asking.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tokenreduce.batch.exporting import Projection, begun, move_aside
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.ledger_base import clear_unfinished
from tokenreduce.batch.lock import Lock
from tokenreduce.batch.recipe import Recipe, differences
from tokenreduce.errors import SettingError
from tokenreduce.video.inputs import shown


class Output:
    """Open until the `with` block is left; then whoever reads the JSONL has all there is.

    moved: what an older output is called now, where it was moved aside
    """

    def __init__(self, path: str, ledger: Ledger, moved: str | None, held: ExitStack) -> None:
        self.path = path
        self.ledger = ledger
        self.projection = held.enter_context(Projection(path, ledger))
        self.moved = moved
        self._held = held

    @classmethod
    def open(
        cls,
        path: str,
        recipe: Recipe,
        given: Mapping[str, str],
        *,
        new: bool = False,
        mix: bool = False,
    ) -> Output:
        """Begins an output, or goes on with one.

        given  the options as given, by which `results retry` asks again
        new    what is there already is moved aside
        mix    rows of other settings may be there
        Raises LedgerError where it cannot be written or another process has it, SettingError where
        it has rows of other settings and neither `new` nor `mix` says what to do.
        """
        if not path:
            raise SettingError("output: the name is empty; give a file, as in -o answers.jsonl")
        if new and mix:
            raise SettingError("--new and --mix: give one of them")
        with ExitStack() as held:
            held.enter_context(Lock.take(path))
            moved = move_aside(path) if new else None
            there = begun(path)
            ledger_path = ledger_of(path)
            clear_unfinished(ledger_path)
            ledger = Ledger.open(ledger_path) if there else Ledger.create(ledger_path)
            held.enter_context(ledger)
            if not mix:
                _same(path, ledger, recipe)
            ledger.add_settings(recipe.digest, recipe.facts, given)
            aside = None if moved is None else os.fspath(moved)
            return cls(path, ledger, aside, held.pop_all())
        raise AssertionError  # an ExitStack lets every error through

    def finish(self) -> None:
        """Brings the JSONL to what the ledger says."""
        self.projection.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.__exit__(kind, error, trace)


def _same(path: str, ledger: Ledger, recipe: Recipe) -> None:
    known = ledger.settings()
    if not known or recipe.digest in known:
        return
    last = list(known.values())[-1]
    raise SettingError(
        f"{shown(path)}: its rows were asked with other settings; now "
        f"{differences(last.facts, recipe.facts)}. Give them again as they were, --mix to add rows "
        "beside them, or --new to move it aside and begin anew"
    )
