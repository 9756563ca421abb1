"""Which settings hold and where each came from: flag, variable, file, preset or default.

The four are read in one place, so that a setting means the same wherever it is written. Knows
neither typer nor the pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tokenreduce.budget import NewlineKeep
from tokenreduce.errors import SettingError
from tokenreduce.strict import parse, read_file, shortened, unknown
from tokenreduce.video.types import DecoderName, Seek

from .kinds import (
    Choice,
    Kind,
    Memory,
    Number,
    Rate,
    Share,
    Switch,
    Text,
    Time,
    Whole,
    WordOrNumber,
)

PREFIX = "TOKENREDUCE_"
FILE_VARIABLE = "TOKENREDUCE_CONFIG"


@dataclass(frozen=True)
class Setting:
    """default: None where the preset, the model or its newest revision decides."""

    name: str
    kind: Kind
    default: object = None
    flag_name: str | None = None

    @property
    def flag(self) -> str:
        return "--" + (self.flag_name or self.name.replace("_", "-"))

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


@dataclass(frozen=True)
class Chosen:
    """A setting's value and the place it was written: a flag, a variable, a file or 'default'."""

    value: object
    source: str


SETTINGS: tuple[Setting, ...] = (
    Setting("model", Text("an alias, a hub id or a folder"), "llava-video-7b"),
    Setting("revision", Text("a branch, a tag or a commit of the model's hub repository")),
    Setting("preset", Text("a preset's name or the path of a .toml file"), "balanced"),
    Setting("budget", Whole("a whole number of visual tokens", 1)),
    Setting("keep", Share()),
    Setting("mean_budget", Whole("a whole number of visual tokens", 1)),
    Setting("method", Text("a method's name")),
    Setting("frames", Whole("a whole number of frames", 1, 100_000)),
    Setting("fps", Rate("frames a second", 1000)),
    Setting("max_frames", Whole("a whole number of frames", 1, 1_000_000)),
    Setting("start", Time()),
    Setting("end", Time()),
    Setting("skip_duplicates", WordOrNumber(("auto", "off"), Number(0, 255))),
    Setting("subtitles", Text("the path of a subtitle file, or embedded")),
    Setting("decoder", Choice(get_args(DecoderName))),
    Setting("seek", Choice(get_args(Seek))),
    Setting("newlines", Choice(get_args(NewlineKeep))),
    Setting("time_text", Switch()),
    Setting("device", Text("auto, cpu, cuda, cuda:N or mps", r"auto|cpu|mps|cuda(:\d+)?"), "auto"),
    Setting("dtype", Choice(("auto", "float32", "bfloat16", "float16")), "auto"),
    Setting("quantize", Choice(("auto", "nf4", "int8", "none")), "auto"),
    Setting("device_map", Choice(("none", "auto")), "none"),
    Setting("offline", Switch(), False),
    Setting("max_new_tokens", Whole("a whole number of tokens", 1, 1_000_000), 256),
    Setting("temperature", Number(0, 10), 0.0),
    Setting("seed", Whole("a whole number", 0, 2**32 - 1), 0),
    Setting("vram", Memory()),
    Setting("fit", Switch(), False),
    Setting("use_cache", Switch(), True, "cache"),  # TOKENREDUCE_CACHE is its folder
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_OTHERS = ("TOKENREDUCE_CACHE", "TOKENREDUCE_MODELS")  # folders, read where they are found
_RIVALS = ("budget", "keep", "mean_budget")  # three ways to say how much is kept


def config_path(environ: Mapping[str, str]) -> Path:
    """The user's configuration file; it need not exist unless TOKENREDUCE_CONFIG names it."""
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    from platformdirs import user_config_path

    return user_config_path("tokenreduce") / "config.toml"


def resolve(flags: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, Chosen]:
    """Every setting with its source; a flag beats a variable beats the file beats the default.

    flags: by setting name; None where the flag was not given. Raises SettingError for an
    unreadable file, an unknown key, a value of the wrong type or out of range, and for two of
    budget, keep and mean_budget at the same level.
    """
    chosen = {setting.name: Chosen(setting.default, "default") for setting in SETTINGS}
    for level in (_of_file(environ), _of_variables(environ), _of_flags(flags)):
        rivals = [level[name] for name in _RIVALS if name in level]
        if len(rivals) > 1:
            raise SettingError(
                f"{rivals[0].source} and {rivals[1].source} both say how many visual tokens are "
                "kept; give one of the two"
            )
        if rivals:  # also over the other one at a lower level
            chosen.update({name: Chosen(None, "default") for name in _RIVALS})
        chosen.update(level)
    return chosen


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that look like settings and are none: worth a warning, not ours to refuse."""
    known = {setting.variable for setting in SETTINGS} | {FILE_VARIABLE}
    return tuple(
        sorted(v for v in environ if v.startswith(PREFIX) and v not in known and v not in _OTHERS)
    )


def read_flag(flag: str, kind: Kind, value: str) -> Any:
    """The value of a flag that is no setting. Raises SettingError that names it."""
    return _checked(flag, kind, value, typed=False)


def _of_flags(flags: Mapping[str, object]) -> dict[str, Chosen]:
    given = {name: value for name, value in flags.items() if value is not None}
    return {name: _chosen(_BY_NAME[name], v, _BY_NAME[name].flag) for name, v in given.items()}


def _of_variables(environ: Mapping[str, str]) -> dict[str, Chosen]:
    # An empty variable is an unset one, as everywhere in a shell.
    given = {s.name: environ[s.variable] for s in SETTINGS if environ.get(s.variable)}
    return {name: _chosen(_BY_NAME[name], v, _BY_NAME[name].variable) for name, v in given.items()}


def _chosen(setting: Setting, value: object, source: str) -> Chosen:
    return Chosen(_checked(source, setting.kind, value, typed=False), source)


def _of_file(environ: Mapping[str, str]) -> dict[str, Chosen]:
    path = config_path(environ)
    if not environ.get(FILE_VARIABLE) and not os.path.exists(path):
        return {}
    table = parse(read_file(path), str(path))
    for key in table:
        if key not in _BY_NAME:
            raise SettingError(f"{path}: {unknown('setting', key, _BY_NAME)}")
    return {
        name: Chosen(
            _checked(f"{path}: {name}", _BY_NAME[name].kind, value, typed=True), f"{name} in {path}"
        )
        for name, value in table.items()
    }


def _checked(source: str, kind: Kind, value: object, *, typed: bool) -> object:
    try:
        return kind.read(value, typed=typed)
    except (ValueError, KeyError):
        raise SettingError(f"{source} is {shortened(value)}; it must be {kind.allowed}") from None
