"""`tokenreduce doctor`: whether questions can be answered on this machine, line by line."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from . import options as o
from . import render

if TYPE_CHECKING:
    from tokenreduce.health.finding import Finding

_NARROW = 40
_STATE, _NAME = 7, 12  # columns of the widest


def doctor(
    model: o.Model = None,
    revision: o.Revision = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    quantize: o.Quantize = None,
    as_json: o.JsonObject = False,
) -> None:
    """Say of installation, device, decoders, cache and model files: in order, or what to do.

    Downloads nothing. Exit 0 if questions can be answered, 5 if the device
    keeps them from it, 2 if something else does.
    """
    from tokenreduce.health.checkup import examine, exit_code
    from tokenreduce.health.finding import Asked

    from .settings import resolve

    flags = {
        "model": model,
        "revision": revision,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
    }
    chosen = resolve(flags, os.environ)
    values: dict[str, Any] = {name: chosen[name].value for name in flags}
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    found: list[Finding] = []
    for one in [*_settings(os.environ), *_terminal()]:
        found.append(one)
        _show(one, as_json=as_json)
    for one in examine(Asked(**values, offline=offline)):
        found.append(one)
        _show(one, as_json=as_json)
    code = exit_code(found)
    if as_json:
        listed = [asdict(one) for one in found]
        render.json_object({"exit_code": code, "findings": listed})
    else:
        render.line(_summed(found))
    raise typer.Exit(code)


def _show(one: Finding, *, as_json: bool) -> None:
    """As soon as it is known; each line for itself, so the columns have their width in advance."""
    if not as_json:
        render.columns([(f"{one.state:<{_STATE}}", f"{one.name:<{_NAME}}", one.text)])


def _summed(found: list[Finding]) -> str:
    counts = {state: sum(one.state == state for one in found) for state in ("problem", "warning")}
    told = [f"{n} {state}{'' if n == 1 else 's'}" for state, n in counts.items() if n]
    return ", ".join(told) if told else "all is in order"


def _settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings and are none."""
    from tokenreduce.health.finding import Finding

    from .settings import config_path, unknown_variables

    unknown = unknown_variables(environ)
    if unknown:
        text = f"{', '.join(unknown)}: no such setting; see `tokenreduce ask --show-settings`"
        yield Finding("settings", "warning", text)
    else:
        path = config_path(environ)
        yield Finding("settings", "ok", f"{path}" if path.exists() else f"none needed in {path}")


def _terminal() -> Iterator[Finding]:
    from tokenreduce.health.finding import Finding

    from .safe import draws_unicode

    width = shutil.get_terminal_size().columns
    drawn = draws_unicode(sys.stderr, os.environ, sys.platform)
    what = "a terminal" if sys.stdout.isatty() else "no terminal"
    text = f"{what}, {width} columns, {'Unicode' if drawn else 'ASCII alone: set LC_ALL to UTF-8'}"
    if width < _NARROW:
        yield Finding("output", "warning", f"{text}; tables need {_NARROW} columns")
    else:
        yield Finding("output", "ok", text)
