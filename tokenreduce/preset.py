"""What a preset says and how it is read; does not know the command line or any model.

A preset is relative to the model: multiples of its native frame count, shares kept, fractions of
depth. It names no model, so the same three names mean the same on every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tokenreduce.budget import NewlineKeep
from tokenreduce.engine.encoder import ToCount
from tokenreduce.methods import METHODS
from tokenreduce.paradigm import Method, Site
from tokenreduce.schedule import SCHEDULES, Schedule
from tokenreduce.shipped import find_preset, preset_names
from tokenreduce.strict import Registries, parse, read_table
from tokenreduce.video.types import DecoderName, Seek

__all__ = ["Preset", "Stage", "VideoSettings", "load_preset", "method_label", "preset_names"]

_MOST_FRAMES = 1000


@dataclass(frozen=True)
class VideoSettings:
    """Which frames are decoded and how.

    frames           multiple of the model's native frame count, above 0 and at most 1000
    skip_duplicates  "auto": a frame that shows what the last one showed is not encoded; or "off"
    """

    frames: Fraction
    seek: Seek = "exact"
    decoder: DecoderName = "auto"
    skip_duplicates: Literal["auto", "off"] = "off"

    def __post_init__(self) -> None:
        if not 0 < self.frames <= _MOST_FRAMES:
            raise ValueError(
                f"frames is {self.frames}; it must be a multiple of the model's native frame "
                f"count, above 0 and at most {_MOST_FRAMES}"
            )


@dataclass(frozen=True)
class Stage:
    """One method at one site.

    schedule: how many tokens leave each layer, inside the LLM and the encoder only; by default the
    method's usual one. Inside the encoder only its shape counts: the budget says what is left.
    """

    at: Site
    method: Method
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        sites = ", ".join(sorted(self.method.sites))
        if self.at not in self.method.sites:
            raise ValueError(
                f"at is '{self.at}', where {_name(self.method)} cannot act; it acts at: {sites}"
            )
        if self.at in ("llm", "encoder"):
            if self.planned is None:
                raise ValueError(
                    f"key 'schedule' is missing; a stage at '{self.at}' needs one of: "
                    + ", ".join(sorted(SCHEDULES))
                )
            if self.at == "encoder":
                _must_remove(self.planned)
        elif self.schedule is not None:
            raise ValueError(
                f"a schedule only counts between layers; at '{self.at}' the preset's keep decides"
            )

    @property
    def planned(self) -> Schedule | None:
        """The schedule that holds."""
        return self.schedule or self.method.usual

    @property
    def proportional(self) -> bool:
        """Inside the encoder, attention counts merged tokens by their size; see `Method`."""
        return bool(getattr(self.method, "proportional", False))


@dataclass(frozen=True)
class Preset:
    """How a video is read, reduced and pruned.

    keep      share of the raw visual tokens, newlines included, that enter the first LLM layer;
              above 0, at most 1
    newlines  which newline embeddings survive a reduction
    stage     at most one before the LLM, exactly one where keep < 1; any number inside it
    """

    name: str
    summary: str
    video: VideoSettings
    keep: Fraction
    newlines: NewlineKeep = "share"
    stage: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it must be a share kept, above 0 and at most 1")
        before = sum(stage.at != "llm" for stage in self.stage)
        if before > 1:
            raise ValueError(f"{before} stages act before the LLM; there can be one")
        if self.keep < 1 and before == 0:
            raise ValueError(
                f"keep is {self.keep}, but no stage reduces before the LLM; add a [[stage]] with "
                "at = 'encoder', 'frames' or 'clip', or keep = 1"
            )

    @property
    def before_llm(self) -> Stage | None:
        """The stage that brings the tokens to the budget, if there is one."""
        return next((stage for stage in self.stage if stage.at != "llm"), None)

    @property
    def in_llm(self) -> tuple[Stage, ...]:
        """The stages that prune between the layers of the LLM."""
        return tuple(stage for stage in self.stage if stage.at == "llm")


def load_preset(name_or_path: str) -> Preset:
    """A shipped preset by name, or one's own by a path that ends in .toml.

    Raises SettingError for an unknown name, an unreadable file, and any key, type or value that
    cannot be.
    """
    found = find_preset(name_or_path)
    named: Registries = {Method: METHODS, Schedule: SCHEDULES}
    table = parse(found.text, found.source)
    preset: Preset = read_table(Preset, table, found.source, named, {"name": found.name})
    return preset


def method_label(preset: Preset) -> str:
    """The preset's methods in the order they act, such as "aim-merge + aim-prune", or "none"."""
    return " + ".join(_name(stage.method) for stage in preset.stage) or "none"


def _must_remove(schedule: Schedule) -> None:
    """Raises ValueError for one that has no shape to bring to a count."""
    try:
        ToCount(schedule, 1).kept(99, 100, 1000)
    except ValueError:
        name = next((n for n, kind in SCHEDULES.items() if kind is type(schedule)), "this one")
        raise ValueError(
            f"schedule {name} removes nothing by the last layer; inside the encoder it must, for "
            "the preset's keep or the budget to be met"
        ) from None


def _name(method: Method) -> str:
    """The name of a method in METHODS; of one made in Python elsewhere, its class's name."""
    return next((n for n, kind in METHODS.items() if kind is type(method)), type(method).__name__)
