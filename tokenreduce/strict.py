"""Reads TOML into frozen dataclasses and names every mistake; knows nothing about presets.

A dataclass is read by its fields, a Protocol by the key `name` through a registry of its
implementations, and Literal, tuple[X, ...], Fraction, int, float, bool and str as themselves.
Nothing is converted silently: an unknown key, a wrong type or an impossible value is a
SettingError with file, key and what is allowed.
"""

from __future__ import annotations

import math
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokenreduce.errors import SettingError

Registries = Mapping[Any, Mapping[str, type]]
"""For each Protocol, its implementations by the name they have in a file."""

_LARGEST_BYTES = 1 << 20
_LARGEST = 1e18  # of a number; above it an int may not fit a float, and nothing means anything
_FRACTION = re.compile(r"\d{1,18}(\.\d{1,18})?|\.\d{1,18}|\d{1,18}/\d{1,18}")
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text in quotes",
    Fraction: 'a number such as 0.25, or a fraction in quotes such as "1/4"',
}


def read_file(path: Path) -> str:
    """The text of a settings file. SettingError if it is missing, not a file, huge or not UTF-8."""
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise SettingError(f"{path} {kind}; give the path of a TOML file")
        if path.stat().st_size > _LARGEST_BYTES:
            raise SettingError(f"{path} is larger than 1 MiB; a TOML file of settings is small")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path} is not UTF-8 text; a TOML file is") from error


def parse(text: str, source: str) -> dict[str, Any]:
    """The table in `text`, whose origin is `source`. SettingError where it is not TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SettingError(f"{source} is not valid TOML: {reason}") from error


def unknown(what: str, given: object, allowed: Iterable[str]) -> str:
    """'no <what> <given>; there are: ...', with the nearest name where one is near."""
    names = sorted(allowed)
    near = get_close_matches(str(given), names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"no {what} {shortened(given)}; there are: {', '.join(names) or 'none'}{hint}"


def shortened(value: object) -> str:
    """The repr of `value`, at most 60 characters of it."""
    written = repr(value)
    return written if len(written) <= 60 else written[:57] + "..."


def read(kind: Any, value: object, where: str, named: Registries) -> Any:
    """`value`, as it came from TOML, as a `kind`. where: file and path to the key."""
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:  # X | None: TOML has no None
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    if kind in named:
        return _implementation(kind, value, where, named)
    if is_dataclass(kind):
        return read_table(kind, value, where, named)
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), value, where)
    if get_origin(kind) is tuple:
        return _sequence(get_args(kind)[0], value, where, named)
    return _scalar(kind, value, where)


def read_table(
    kind: Any,
    value: object,
    where: str,
    named: Registries,
    given: Mapping[str, object] = types.MappingProxyType({}),
) -> Any:
    """A dataclass `kind` from a TOML table. given: fields that do not come from the file."""
    table = _table(value, where)
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind) if f.init and f.name not in given}
    for key in table:
        if key not in known:
            raise SettingError(f"{where}: {unknown('key', key, known)}")
    for name, field in known.items():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and name not in table:
            raise SettingError(f"{where}: key '{name}' is missing; it is {_allowed(hints[name])}")
    inner = {key: read(hints[key], v, f"{where}.{key}", named) for key, v in table.items()}
    try:
        return kind(**inner, **given)
    except ValueError as error:  # the dataclass's own check of its values
        raise SettingError(f"{where}: {error}") from error


def _implementation(kind: Any, value: object, where: str, named: Registries) -> Any:
    table, choices = _table(value, where), named[kind]
    if "name" not in table:
        raise SettingError(
            f"{where}: key 'name' is missing; there are: {', '.join(sorted(choices))}"
        )
    name = table["name"]
    if not isinstance(name, str) or name not in choices:
        raise SettingError(f"{where}.name: {unknown(kind.__name__.lower(), name, choices)}")
    rest = {key: v for key, v in table.items() if key != "name"}
    return read_table(choices[name], rest, where, named)


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise SettingError(f"{where} is {shortened(value)}; it must be a table, {{ key = value }}")
    return value


def _choice(choices: tuple[Any, ...], value: object, where: str) -> Any:
    # Compared by type as well: 1 == True, and neither may pass for the other.
    if not any(type(value) is type(one) and value == one for one in choices):
        listed = ", ".join(str(one) for one in choices)
        raise SettingError(f"{where} is {shortened(value)}; it can be: {listed}")
    return value


def _sequence(kind: Any, value: object, where: str, named: Registries) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SettingError(f"{where} is {shortened(value)}; it must be a list")
    return tuple(read(kind, inner, f"{where}[{i}]", named) for i, inner in enumerate(value))


def _scalar(kind: Any, value: object, where: str) -> Any:
    accepted: dict[Any, tuple[type, ...]] = {
        int: (int,),
        float: (int, float),
        bool: (bool,),
        str: (str,),
    }
    if kind is Fraction:
        try:
            return fraction(value)
        except ValueError as error:
            raise SettingError(f"{where} is {shortened(value)}; it must be {error}") from error
    # A bool is an int to Python, not to whoever writes the file.
    right = isinstance(value, accepted[kind]) and (kind is bool or not isinstance(value, bool))
    if not right or (isinstance(value, (int, float)) and not abs(value) <= _LARGEST):
        raise SettingError(f"{where} is {shortened(value)}; it must be {_WORDS[kind]}")
    return float(value) if kind is float and isinstance(value, (int, float)) else value


def fraction(value: object) -> Fraction:
    """An exact fraction from 0.25, 1, "0.25" or "1/4"; never negative.

    ValueError, whose message says what is allowed, for anything else. Floats are taken as they
    are written, not as their binary value, and long digit strings are refused before they cost
    time.
    """
    if isinstance(value, float) and math.isfinite(value) and value >= 0:
        return Fraction(repr(value))
    written = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(written, str) and _FRACTION.fullmatch(written):
        try:
            return Fraction(written)
        except ZeroDivisionError:
            pass
    raise ValueError(_WORDS[Fraction])


def _allowed(kind: Any) -> str:
    """What a field of `kind` takes, in words."""
    if get_origin(kind) is Literal:
        return "one of: " + ", ".join(str(one) for one in get_args(kind))
    if is_dataclass(kind):
        return "a table"
    return _WORDS.get(kind, "a table with a name")
