"""What holds in the end, for `--show-settings`: the settings with the preset's values filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenreduce.preset import Preset, load_preset, method_label

from .settings import Chosen


def effective(chosen: Mapping[str, Chosen]) -> list[tuple[str, str, str]]:
    """(name, value, source) of every setting. Raises SettingError if the preset cannot be read."""
    preset = load_preset(str(chosen["preset"].value))
    left_open = _left_open(preset, [chosen[name] for name in ("budget", "keep", "mean_budget")])
    return [
        (name, *left_open[name]) if one.value is None else (name, _written(one.value), one.source)
        for name, one in chosen.items()
    ]


def _left_open(preset: Preset, rivals: Sequence[Chosen]) -> dict[str, tuple[str, str]]:
    """(value, source) of the settings that may be None: who decides, and what. rivals: the
    settings of which at most one is set."""
    source = f"preset {preset.name}"
    ruling = next((one.source for one in rivals if one.value is not None), None)
    unset = ("not set", "default") if ruling is None else ("not used", f"{ruling} instead")
    return {
        "revision": ("the main branch", "default"),
        "budget": unset,
        "mean_budget": unset,
        "keep": unset if ruling is not None else (str(preset.keep), source),
        "method": (method_label(preset), source),
        "frames": (f"{preset.video.frames} x the model's native count", source),
        "fps": ("not set", "default"),
        "max_frames": ("no limit", "default"),
        "start": ("the beginning", "default"),
        "end": ("the end", "default"),
        "skip_duplicates": (preset.video.skip_duplicates, source),
        "subtitles": ("none", "default"),
        "seek": (preset.video.seek, source),
        "decoder": (preset.video.decoder, source),
        "newlines": (preset.newlines, source),
        "vram": ("no limit", "default"),
        "time_text": ("as the model was trained", "model"),
    }


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
