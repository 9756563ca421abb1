"""What a session does about memory: it fits the opened file to the device, and steps down once.

Between `opening`, which settles what is asked for, and `fitting`, which knows counts alone. Decodes
nothing and loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tokenreduce.captions import Line
from tokenreduce.fitting import fitted
from tokenreduce.lowering import Knobs, Planned, halved
from tokenreduce.models.placement import Placement
from tokenreduce.models.spec import ModelSpec
from tokenreduce.opening import Opened, Wanted
from tokenreduce.plan import Overrides, Plan, of_video
from tokenreduce.preset import load_preset
from tokenreduce.result import Fitted
from tokenreduce.room import Allowed, Room
from tokenreduce.sizing import Asked, entering, text_estimate
from tokenreduce.subject import Stills, Subject
from tokenreduce.subtitles import MOST_TOKENS
from tokenreduce.video.inputs import shown

_MOST_CHARACTERS = 3 * MOST_TOKENS  # of subtitles; three make a token, as `sizing` counts
_HISTORY = "x" * 3 * 1024  # as long as what a chat tells again
_QUESTION = "x" * 300


class Made(NamedTuple):
    """wanted: what is asked for now. batch: frames in the tower at once."""

    wanted: Wanted
    batch: int
    told: Fitted


@dataclass(frozen=True)
class Maker:
    """allowed: what may be done; many: several questions, with what was said before; beside: other
    files that are prepared meanwhile."""

    allowed: Allowed
    many: bool = False
    beside: int = 0

    def stepped(self, wanted: Wanted, batch: int, planned: Planned) -> Made | None:
        """Half of everything, once memory did not suffice for `wanted` in batches of `batch`. None
        where half cannot be."""
        half = halved(wanted.over, planned)
        if half is None:
            return None
        then, over = half.plan, half.over
        told = (
            f"memory did not suffice: {then.frames:,} {then.what}, {entering(then):,} visual tokens"
        )
        return Made(replace(wanted, over=over), max(1, batch // 2), Fitted(changed=(told,)))

    def made(
        self, wanted: Wanted, about: Opened, spec: ModelSpec, where: Placement, room: Room
    ) -> Made:
        """Raises CapacityError, see `fitting.fitted`."""
        asked = asked_of(wanted, about.subject, about.said, spec, where, many=self.many)
        asked = replace(asked, beside=self.beside)
        fit = fitted(asked, wanted.over, room, lower=self.allowed.fit)
        told = Fitted(room.limit_bytes, fit.found.peak_bytes, fit.changed)
        return Made(replace(wanted, over=fit.over), fit.batch, told)


def advice(over: Overrides, planned: Planned, *, quantized: bool, may_fit: bool) -> str:
    """What to do where the memory did not suffice for what `over` leads to. quantized: the model is
    in NF4, as small as it gets; may_fit: --fit was not given."""
    plan = planned(over)
    halves = Knobs(over, plan).halves(planned)
    told = [f"set {' or '.join(halves)}"] if halves else []
    told += [] if quantized else ["use --quantize nf4"]
    choose = may_fit and halved(over, planned) is not None
    told += ["let --fit choose" if choose else "use a smaller --model or a larger device"]
    return (
        f"the device's memory does not suffice for {plan.frames:,} {plan.what} and "
        f"{entering(plan):,} visual tokens: {', or '.join(told)}"
    )


def planner(wanted: Wanted, subject: Subject, spec: ModelSpec) -> Planned:
    """Plans for other settings of the same file."""
    preset = wanted.preset if not isinstance(wanted.preset, str) else load_preset(wanted.preset)
    read = replace(wanted, preset=preset)
    if isinstance(subject, Stills):
        stills = subject
        return lambda over: replace(read, over=over).settled(spec, stills)
    probe = subject.probe

    def of_footage(over: Overrides) -> Plan:
        plan = replace(read, over=over).settled(spec, None)
        return of_video(plan, spec, probe.seconds, probe.fps, shown(probe.path))

    return of_footage


def asked_of(
    wanted: Wanted,
    subject: Subject,
    said: Sequence[Line],
    spec: ModelSpec,
    where: Placement,
    *,
    many: bool = False,
) -> Asked:
    """The run, with plans for other settings of the same file. said: subtitles."""
    told = "".join(line.text for line in said)[:_MOST_CHARACTERS]
    # A toy that was taught single questions is never told what was said before.
    beside = told + (_HISTORY if many and not spec.toy_world else "")
    squares = len(subject.pictures.pixels) if isinstance(subject, Stills) else None
    seconds = 0.0 if isinstance(subject, Stills) else subject.probe.seconds
    return Asked(
        spec,
        where,
        planner(wanted, subject, spec),
        lambda plan: _text(spec, plan, seconds, beside),
        squares,
        many,
    )


def _text(spec: ModelSpec, plan: Plan, seconds: float, beside: str) -> int:
    return text_estimate(spec, plan, seconds, _QUESTION, beside)
