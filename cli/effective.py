"""What holds in the end, for `--show-settings`: the settings with the preset's values filled in."""

from __future__ import annotations

from collections.abc import Mapping

from tokenreduce.preset import Preset, load_preset

from .settings import Chosen


def effective(chosen: Mapping[str, Chosen]) -> list[tuple[str, str, str]]:
    """(name, value, source) of every setting. Raises SettingError if the preset cannot be read."""
    preset = load_preset(str(chosen["preset"].value))
    left_open = _left_open(preset, budget=chosen["budget"], keep=chosen["keep"])
    return [
        (name, *left_open[name]) if one.value is None else (name, _written(one.value), one.source)
        for name, one in chosen.items()
    ]


def _left_open(preset: Preset, *, budget: Chosen, keep: Chosen) -> dict[str, tuple[str, str]]:
    """(value, source) of the settings that may be None: who decides, and what."""
    source = f"preset {preset.name}"
    unused = ("not used", f"{keep.source if budget.value is None else budget.source} instead")
    return {
        "revision": ("the main branch", "default"),
        "budget": unused if keep.value is not None else ("not set", "default"),
        "keep": unused if budget.value is not None else (str(preset.keep), source),
        "frames": (f"{preset.video.frames} x the model's native count", source),
        "seek": (preset.video.seek, source),
        "decoder": (preset.video.decoder, source),
        "newlines": (preset.newlines, source),
        "time_text": ("as the model was trained", "model"),
    }


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
