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
from tokenreduce.models.placement import Placement
from tokenreduce.models.spec import ModelSpec
from tokenreduce.opening import Opened, Wanted
from tokenreduce.plan import Overrides, Plan, of_video
from tokenreduce.preset import load_preset
from tokenreduce.result import Fitted
from tokenreduce.room import Allowed, Room
from tokenreduce.sizing import Asked, entering, halved, text_estimate
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

    def stepped(self, wanted: Wanted, plan: Plan, batch: int) -> Made:
        """Half of everything, once memory did not suffice for `plan` in batches of `batch`."""
        over, frames, budget = halved(plan, wanted.over)
        told = f"memory did not suffice: {frames:,} {plan.what}, {budget:,} visual tokens"
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


def advice(plan: Plan, over: Overrides) -> str:
    """What to do where the memory did not suffice for `plan`."""
    _, frames, budget = halved(plan, over)
    fewer = "" if plan.pictures else f" or --frames {frames}"
    return (
        f"the device's memory does not suffice for {plan.frames:,} {plan.what} and "
        f"{entering(plan):,} visual tokens: set a smaller --budget such as {budget}{fewer}, or "
        "--quantize nf4, or let --fit choose"
    )


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
    preset = wanted.preset if not isinstance(wanted.preset, str) else load_preset(wanted.preset)
    read = replace(wanted, preset=preset)
    told = "".join(line.text for line in said)[:_MOST_CHARACTERS]
    # A toy-world model is never told what was said before (`session`).
    beside = told + (_HISTORY if many and not spec.toy_world else "")
    if isinstance(subject, Stills):
        stills = subject

        def of_pictures(over: Overrides) -> Plan:
            return replace(read, over=over).settled(spec, stills)

        squares = len(stills.pictures.pixels)
        return Asked(
            spec, where, of_pictures, lambda plan: _text(spec, plan, 0.0, beside), squares, many
        )
    probe = subject.probe

    def of_footage(over: Overrides) -> Plan:
        plan = replace(read, over=over).settled(spec, None)
        return of_video(plan, spec, probe.seconds, probe.fps, shown(probe.path))

    return Asked(
        spec, where, of_footage, lambda plan: _text(spec, plan, probe.seconds, beside), None, many
    )


def _text(spec: ModelSpec, plan: Plan, seconds: float, beside: str) -> int:
    return text_estimate(spec, plan, seconds, _QUESTION, beside)
