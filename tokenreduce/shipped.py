"""The presets that come with the package, by name and as text; does not know what they mean.

Apart from `preset` because listing names and summaries must not cost an import of torch.
"""

from __future__ import annotations

from importlib.resources import files

from tokenreduce.strict import parse

# A string and not an import: in the checkout the folder lies outside the package.
_HOME = "tokenreduce.presets"


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the package, sorted."""
    return tuple(
        sorted(
            entry.name.removesuffix(".toml")
            for entry in files(_HOME).iterdir()
            if entry.name.endswith(".toml")
        )
    )


def preset_text(name: str) -> str:
    """The TOML of the shipped preset `name`, which must be one of `preset_names()`."""
    return files(_HOME).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def preset_summary(name: str) -> str:
    """The one line that a shipped preset says of itself."""
    return str(parse(preset_text(name), f"{name}.toml")["summary"])
