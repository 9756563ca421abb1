"""From a command's own arguments to settings that hold; knows no command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import render

if TYPE_CHECKING:
    from .settings import Chosen


def chosen_from(arguments: Mapping[str, object], *, quiet: bool) -> dict[str, Chosen]:
    """Every setting, of a command that has all of them among its arguments. Warns of variables that
    are none. Raises SettingError, see `settings.resolve`."""
    from .settings import SETTINGS, resolve, unknown_variables

    chosen = resolve({one.name: arguments[one.name] for one in SETTINGS}, os.environ)
    if not quiet:
        for variable in unknown_variables(os.environ):
            render.warning(f"{variable} is no setting; see 'tokenreduce ask --show-settings'")
    return chosen
