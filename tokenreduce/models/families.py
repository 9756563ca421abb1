"""The families of models there are: one entry each. Imports no torch; loads no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenreduce.errors import ModelError
from tokenreduce.models import llava15_config, llava_config
from tokenreduce.models.fields import Config
from tokenreduce.models.spec import ModelSpec


@dataclass(frozen=True)
class Family:
    """What it takes to know and to load the checkpoints of one family.

    title      what the user is told is supported
    describes  whether a config.json is of this family
    read_spec  (name, config.json, preprocessor_config.json or {}) to a ModelSpec, or ModelError
    module     holds `open_model(folder, spec, config, placement) -> VideoModel` and
               `check_model(folder, spec, config) -> dict[str, Stored]`, the tensors of the files
               by the names that the model gives them; named and not imported: it imports torch
    """

    title: str
    describes: Callable[[Config], bool]
    read_spec: Callable[[str, Config, Config], ModelSpec]
    module: str


FAMILIES: dict[str, Family] = {
    "llava": Family(
        llava_config.TITLE,
        llava_config.describes,
        llava_config.read_spec,
        "tokenreduce.models.llava_video",
    ),
    "llava15": Family(
        llava15_config.TITLE,
        llava15_config.describes,
        llava15_config.read_spec,
        "tokenreduce.models.llava15",
    ),
}


def family_of(name: str, config: Config) -> Family:
    """The family that `config` describes. Raises ModelError that lists what is supported."""
    for family in FAMILIES.values():
        if family.describes(config):
            return family
    kind = config.get("architectures") or config.get("model_type") or "nothing"
    kind = kind[0] if isinstance(kind, list) else kind
    supported = "; ".join(family.title for family in FAMILIES.values())
    raise ModelError(f"{name}: its config.json describes {kind}; supported: {supported}")
