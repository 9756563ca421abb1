"""Finds presets, shipped or one's own, as text; does not know what they mean.

Apart from `preset` because listing names and summaries must not cost an import of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tokenreduce.errors import SettingError
from tokenreduce.strict import parse, read_file, unknown

# A string and not an import: in the checkout the folder lies outside the package.
_HOME = "tokenreduce.presets"


@dataclass(frozen=True)
class PresetText:
    """The TOML of a preset. source: the file that mistakes are reported in."""

    name: str
    source: str
    text: str


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the package, sorted."""
    return tuple(
        sorted(
            entry.name.removesuffix(".toml")
            for entry in files(_HOME).iterdir()
            if entry.name.endswith(".toml")
        )
    )


def find_preset(name_or_path: str) -> PresetText:
    """A shipped preset by name, or a file of one's own by a path that ends in .toml.

    A preset of one's own is named by its file, suffix included, so that no result can take it for
    a shipped one. Raises SettingError for an unknown name or an unreadable file.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        return PresetText(path.name, str(path), read_file(path))
    if name_or_path not in preset_names():
        raise SettingError(
            f"{unknown('preset', name_or_path, preset_names())}, or a path ending in .toml"
        )
    file = f"{name_or_path}.toml"
    return PresetText(name_or_path, file, files(_HOME).joinpath(file).read_text(encoding="utf-8"))


def preset_summary(name: str) -> str:
    """The one line that a shipped preset says of itself."""
    found = find_preset(name)
    return str(parse(found.text, found.source)["summary"])
