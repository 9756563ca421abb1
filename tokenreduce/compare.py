"""One question about a video or pictures under several settings, each beside the unreduced model.

Decoding and encoding are shared by all settings that look at the same frames; what reduces inside
the vision tower shares the decoding alone. No frame is skipped as a duplicate. Knows no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

from tokenreduce import memory
from tokenreduce.cells import (
    Cell,
    fitting,
    left_out,
    refusal,
    settled,
    sieve,
    something_left,
    wanted,
    with_references,
)
from tokenreduce.clock import Clock
from tokenreduce.compared import Comparison, Refused, Row
from tokenreduce.errors import CapacityError, SettingError, TokenReduceError
from tokenreduce.events import Setting, Watcher, ignore
from tokenreduce.looking import Encoded, look
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.load import check, load, placed, read_spec
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Plan, check_question, of_video
from tokenreduce.preset import Preset
from tokenreduce.replying import foreseen, reply
from tokenreduce.result import Answer
from tokenreduce.subject import FilePath, Stills, Subject, probed, read_stills, told_apart
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown
from tokenreduce.video.types import Limits
from tokenreduce.viewing import merge

__all__ = ["Comparison", "Refused", "Row", "compare"]

_TOO_SMALL = "the device's memory does not suffice for it: give fewer --frames"


def compare(
    path: FilePath | Sequence[FilePath],
    question: str,
    *,
    presets: Sequence[str | Preset] = (),
    methods: Sequence[str] = (),
    mean_budgets: Sequence[int] = (),
    budgets: Sequence[int] = (),
    preset: str | Preset = "balanced",
    frames: int | None = None,
    model: str | VideoModel = "llava-video-7b",
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    offline: bool = False,
    device_map: str = "none",
    max_new_tokens: int = 256,
    seed: int = 0,
    limits: Limits | None = None,
    watch: Watcher = ignore,
) -> Comparison:
    """Each of `presets` as it is, and each of `methods` at each of the budgets, greedily.

    methods act on the frames of `preset` (or `frames`), so they are alike but for the method;
    without a budget each keeps the preset's share. The first row of each set of frames is the
    unreduced model, where it fits. A setting that cannot be, such as a mean budget below what its
    method can reach, is Refused and the others go on. Raises what `answer` raises, before the video
    is decoded where that can be told, and a refusal where every setting is refused.
    """
    asked, files = check_question(question), told_apart(path)
    clock = Clock(watch)
    if isinstance(model, str):
        placed(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            quantize=quantize,
            offline=offline,
            device_map=device_map,
            warn=clock.warn,
        )
    if isinstance(model, str):
        spec = read_spec(model, revision=revision, offline=offline)
    else:
        spec = model.spec
    sampling = Sampling(max_new_tokens, 0.0, seed)
    every = wanted(spec, presets, methods, mean_budgets, budgets, preset, frames)
    stills = read_stills(files, spec, clock) if files.pictures else None
    laid = stills.layouts(spec) if stills else ()
    cells = with_references([settled(one, spec, sampling, laid) for one in every])
    cells = sieve(cells, lambda plan: fitting(plan, spec, 0), clock)
    if stills and frames is not None:
        clock.warn("--frames: only for videos, of no effect on pictures")
    if isinstance(model, str):
        check(model, revision)
    with Decoder(limits or Limits()) as child:
        subject = stills or probed(files, child, clock)
        cells = sieve(cells, lambda plan: fitting(_known(plan, spec, subject), spec, 0), clock)
        if isinstance(model, str):
            with clock.part("load"):
                loaded = load(
                    model,
                    revision=revision,
                    device=device,
                    dtype=dtype,
                    quantize=quantize,
                    offline=offline,
                    device_map=device_map,
                    on_event=watch,
                )
        else:
            loaded = model
        cells = sieve(
            cells,
            lambda plan: fitting(plan, spec, foreseen(loaded, asked, plan, subject)),
            clock,
        )
        found = _Bench(child, loaded, subject, asked, clock, watch).answered(cells)
    shared = clock.seconds()
    spent = {"load": shared.load, "decode": shared.decode, "encode": shared.encode}
    return Comparison(tuple(found), spent, clock.warnings)


def _known(plan: Plan, spec: ModelSpec, subject: Subject) -> Plan:
    if isinstance(subject, Stills):
        return plan
    probe = subject.probe
    return of_video(plan, spec, probe.seconds, probe.fps, shown(probe.path))


@dataclass(frozen=True)
class _Bench:
    """What all settings have in common."""

    child: Decoder
    model: VideoModel
    subject: Subject
    question: str
    clock: Clock
    watch: Watcher

    def answered(self, cells: Sequence[Cell]) -> list[Row | Refused]:
        """Every cell but the references of nothing, in their order."""
        found: dict[int, Row | Cell] = {i: cell for i, cell in enumerate(cells) if cell.refused}
        going = [(i, cell.plan) for i, cell in enumerate(cells) if cell.plan and not cell.refused]
        groups = [list(group) for _, group in groupby(going, key=lambda one: one[1].looks_at)]
        groups = [group for group in groups if not all(cells[i].reference for i, _ in group)]
        of, number = sum(map(len, groups)), 0
        for group in groups:
            encoded, tower_seconds = self._seen([plan for _, plan in group])
            reference: str | None = None
            for place, (i, plan) in enumerate(group):
                number += 1
                self.watch(Setting(cells[i].label, number, of))
                if place == 0:
                    self._warm(encoded, group[-1][1])
                try:
                    answer, peak = self._one(encoded, plan)
                except (SettingError, CapacityError) as error:
                    if cells[i].reference:
                        left_out(plan, error, self.clock)
                    else:
                        found[i] = replace(cells[i], refused=refusal(error))
                    continue
                same = None if reference is None else answer.answer == reference
                if cells[i].reference:
                    reference = answer.answer
                encode = answer.seconds.encode or tower_seconds
                found[i] = Row(cells[i].label, answer, same, peak, encode)
        told = _told(cells, found)
        self._warn(told)
        return told

    def _seen(self, plans: Sequence[Plan]) -> tuple[Encoded, float]:
        """The frames of all `plans`, and the seconds of the tower."""
        before = self.clock.seconds().encode
        with memory.sufficient(_TOO_SMALL):
            encoded = look(self.child, self.model, self.subject, plans, self.clock)
        return encoded, self.clock.seconds().encode - before

    def _warm(self, encoded: Encoded, plan: Plan) -> None:
        """What is set up once is not the first setting's to pay. What fails here fails again."""
        short = replace(plan, sampling=replace(plan.sampling, max_new_tokens=1))
        with suppress(SettingError, CapacityError):
            self._one(encoded, short)

    def _one(self, encoded: Encoded, plan: Plan) -> tuple[Answer, int | None]:
        """An answer, and the peak of memory."""
        model, own = self.model, Clock()
        memory.reset_device_peak(model.device)
        told = memory.reset_host_peak()
        with memory.sufficient(_TOO_SMALL):
            viewed = merge(model, encoded, plan, own)
            answer = reply(model, viewed, self.question, plan, own)
        peak = memory.device_peak_bytes(model.device)
        if peak is None and told:
            peak = memory.host_peak_bytes()
        return answer, peak

    def _warn(self, rows: Sequence[Row | Refused]) -> None:
        """What answers warn of, each thing once."""
        said: dict[str, list[str]] = {}
        for row in rows:
            for message in row.answer.warnings if isinstance(row, Row) else ():
                said.setdefault(message, []).append(row.label)
        for message, (first, *others) in said.items():
            more = f" and {len(others)} more" if others else ""
            self.clock.warn(f"{first}{more}: {message}")


def _told(cells: Sequence[Cell], found: dict[int, Row | Cell]) -> list[Row | Refused]:
    """In order. Raises the first refusal where nothing but references was answered."""
    outcome: list[tuple[str, TokenReduceError | None]] = []
    listed: list[Row | Refused] = []
    for i in sorted(found):
        one = found[i]
        error = one.refused if isinstance(one, Cell) else None
        if not cells[i].reference:
            outcome.append((one.label, error))
        listed.append(Refused(one.label, str(error)) if isinstance(one, Cell) else one)
    something_left(outcome)
    return listed
