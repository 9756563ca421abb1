"""What a run will look at, compute and take, told before a weight is loaded or a frame decoded.

From the model's configuration and the file's headers alone. Knows no question, and shows nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokenreduce import cost, overhead
from tokenreduce.calibration import Speed, key_of, machine_of, speed
from tokenreduce.captions import Line
from tokenreduce.cost import Through
from tokenreduce.engine.encoder import ToCount
from tokenreduce.errors import SettingError
from tokenreduce.fitting import offers, tower_batch
from tokenreduce.footprint import Footprint, layers_of
from tokenreduce.inside import patches_of, shares_of
from tokenreduce.making_room import asked_of
from tokenreduce.models.base import Prune
from tokenreduce.models.placement import Placement
from tokenreduce.models.spec import ModelSpec
from tokenreduce.opening import Wanted
from tokenreduce.plan import Overrides, Plan
from tokenreduce.preset import Preset
from tokenreduce.result import Flops
from tokenreduce.room import Room
from tokenreduce.sizing import Asked
from tokenreduce.subject import Subject
from tokenreduce.window import check_context
from tokenreduce.work import Cost


@dataclass(frozen=True)
class Case:
    """What is planned for, whatever the preset.

    room    None where nothing limits the memory
    nf4     the same with the LLM in NF4; None where it is already, or cannot be
    said    subtitles       many   several questions, with what was said before
    folder  of `calibration`; None foresees no seconds
    """

    subject: Subject
    spec: ModelSpec
    where: Placement
    room: Room | None = None
    nf4: Placement | None = None
    said: tuple[Line, ...] = ()
    many: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class Predicted:
    """Seconds of each part, by earlier runs; decode: waited for beside encoding."""

    decode: float
    encode: float
    prefill: float

    @property
    def first_token(self) -> float:
        return self.decode + self.encode + self.prefill


@dataclass(frozen=True)
class Forecast:
    """Of one preset. per_layer: visual tokens each LLM layer will work on, which begin with what
    enters the LLM. requested: frames asked for, of which the file has `frames`. fits: None where
    nothing limits the memory; offers: settings that would. nf4_bytes: the peak with the LLM in NF4,
    None where it is already, or cannot be."""

    preset: str
    method: str
    frames: int
    requested: int
    raw: int
    per_layer: tuple[int, ...]
    text: int
    flops: Flops
    kv_bytes: int
    batch: int
    found: Footprint
    nf4_bytes: int | None
    fits: bool | None
    offers: tuple[str, ...]
    seconds: Predicted | None

    @property
    def merged(self) -> int:
        return self.per_layer[0]

    @property
    def mean(self) -> float:
        return sum(self.per_layer) / len(self.per_layer)

    def to_json(self) -> dict[str, Any]:
        """A plain object of numbers, strings, lists and objects."""
        return {
            "preset": self.preset,
            "method": self.method,
            "frames": self.frames,
            "requested": self.requested,
            "tokens": {
                "raw": self.raw,
                "merged": self.merged,
                "text": self.text,
                "per_layer": list(self.per_layer),
            },
            "flops": asdict(self.flops),
            "kv_cache": self.kv_bytes,
            "tower_batch": self.batch,
            "peak": self.found.peak_bytes,
            "driver": self.found.driver_bytes,
            "stages": {stage.name: dict(stage.parts) for stage in self.found.stages},
            "fits": self.fits,
            "would_fit": list(self.offers),
            "seconds": None if self.seconds is None else asdict(self.seconds),
            "refused": None,
        }


@dataclass(frozen=True)
class Refused:
    """A preset that cannot be used for this file, and why."""

    preset: str
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"preset": self.preset, "refused": self.why}


def forecast(wanted: Wanted, case: Case) -> Forecast | Refused:
    """wanted.preset: the one. Raises InputError for a range that is not in the video."""
    spec, where, room = case.spec, case.where, case.room
    asked = asked_of(wanted, case.subject, case.said, spec, where, many=case.many)
    name = wanted.preset.name if isinstance(wanted.preset, Preset) else wanted.preset
    try:
        plan = asked.plan(wanted.over)
        text = asked.text_tokens(plan)
        check_context(plan, spec, text, plan.raw)
        per_layer = layers_of(plan)
    except SettingError as error:
        return Refused(name, str(error))
    squares = asked.squares or plan.frames
    within, own = _before_llm(spec, plan, per_layer, text)
    flops = cost.flops(spec, squares, plan.raw, per_layer, text, within=within, overhead=own)
    batch = tower_batch(asked, plan, room)
    found = asked.takes(plan, batch)
    fits = None if room is None else room.holds(found)
    smaller = None if case.nf4 is None else replace(asked, placement=case.nf4)
    return Forecast(
        preset=name,
        method=plan.label,
        frames=plan.frames,
        requested=asked.planned(wanted.over).frames,
        raw=plan.raw,
        per_layer=per_layer,
        text=text,
        flops=flops,
        kv_bytes=cost.kv_bytes(spec.text, per_layer, text, where.dtype.itemsize),
        batch=batch,
        found=found,
        nf4_bytes=None if smaller is None else smaller.takes(plan, batch).peak_bytes,
        fits=fits,
        offers=_offers(asked, smaller, wanted.over, room, batch) if room and not fits else (),
        seconds=None if plan.pictures else _seconds(spec, where, plan.frames, flops, case.folder),
    )


def _offers(
    asked: Asked, smaller: Asked | None, over: Overrides, room: Room, batch: int
) -> tuple[str, ...]:
    """Settings that fit, each by itself. smaller: the run in NF4, where that is a choice; with
    other settings beside it only where these alone do not do."""
    told = offers(asked, over, room, batch)
    if smaller is None:
        return told
    plan = smaller.plan(over)
    their = tower_batch(smaller, plan, room)
    if room.holds(smaller.takes(plan, their)):
        return (*told, "--quantize nf4")
    return told or tuple(f"--quantize nf4 {one}" for one in offers(smaller, over, room, their))


def _before_llm(
    spec: ModelSpec, plan: Plan, per_layer: tuple[int, ...], text: int
) -> tuple[tuple[Through, ...], Cost]:
    """How frames will go through a tower in which tokens leave, and what reducing computes,
    there, after it and in the LLM."""
    visual = per_layer[0]
    own = overhead.inside_llm(plan.prunes_for(visual), spec.text, per_layer, text)
    if plan.within is None or visual == plan.raw:
        if plan.merge is None or plan.pictures:  # of pictures the parts would have to be known
            return (), own
        layout = spec.layout(plan.frames)
        sizes = (spec.vision, spec.text)
        merging = overhead.before_llm(
            plan.merge, sizes, layout, visual, plan.newlines, plan.merge_site
        )
        return (), own + merging
    layout = patches_of(spec, spec.layout(plan.frames))
    counts = Counter(share.features for share in shares_of(layout, visual).shares)
    through = []
    for keep, frames in counts.items():
        prune = Prune(plan.within.method, ToCount(plan.within.schedule, keep))
        part = Through.of(spec.vision, frames, prune.schedule)
        through.append(part)
        own += overhead.inside_encoder((prune,), spec.vision, part)
    return tuple(through), own


def _seconds(
    spec: ModelSpec, where: Placement, frames: int, flops: Flops, folder: Path | None
) -> Predicted | None:
    machine = machine_of(where.device, where.dtype)
    if folder is None or machine is None:
        return None
    known: Speed | None = speed(folder, key_of(spec.name, machine, where.quantize))
    if known is None:
        return None
    return Predicted(
        known.decode * frames,
        known.vision * flops.vision / 1e12,
        known.llm * (flops.llm + flops.overhead) / 1e12,
    )
