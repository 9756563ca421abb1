"""One question about a video or pictures under several settings, each beside the unreduced model.

Decoding and encoding are shared by all settings that look at the same frames; what reduces inside
the vision tower shares the decoding alone. No frame is skipped as a duplicate. Knows no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import Any

from tokenreduce import memory
from tokenreduce.clock import Clock
from tokenreduce.errors import SettingError
from tokenreduce.events import Watcher, ignore
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.load import check, load, read_spec
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Overrides, Plan, check_context, check_question, of_video, settle
from tokenreduce.preset import Preset, load_preset
from tokenreduce.replying import reply
from tokenreduce.result import Answer
from tokenreduce.subject import FilePath, Stills, Subject, probed, read_stills, told_apart
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown
from tokenreduce.video.types import Limits
from tokenreduce.viewing import Encoded, look, merge

FULL = "full"
_TOO_SMALL = (
    "the device's memory does not suffice to compare with the unreduced model: give fewer --frames"
)


@dataclass(frozen=True)
class Row:
    """One setting. same: its answer is that of the unreduced model on the same frames; None where
    that one does not fit the context window. peak_bytes: most memory of the device, or of the
    host where there is none, while it was reduced and answered; None where nobody tells."""

    label: str
    answer: Answer
    same: bool | None
    peak_bytes: int | None

    @property
    def seconds(self) -> float:
        """Reducing, reading and answering, and the vision tower where it reduces inside; what is
        shared is left out."""
        spent = self.answer.seconds
        return spent.encode + spent.reduce + spent.prefill + spent.generate


@dataclass(frozen=True)
class Comparison:
    """shared_seconds: load, decode and encode, paid once for all rows."""

    rows: tuple[Row, ...]
    shared_seconds: dict[str, float]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain object: rows as `ask --json` prints an answer, with what compares them."""
        rows = [
            {
                "label": row.label,
                "same_as_full": row.same,
                "mean_visual_tokens": row.answer.tokens.mean_per_layer,
                "seconds_alone": row.seconds,
                "peak_bytes": row.peak_bytes,
                **row.answer.to_json(),
            }
            for row in self.rows
        ]
        return asdict(replace(self, rows=())) | {"rows": rows, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class _Setting:
    label: str
    plan: Plan

    @property
    def frames(self) -> tuple[object, ...]:
        """Settings that agree in this look at the same frames."""
        return self.plan.looks_at


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
    max_new_tokens: int = 256,
    seed: int = 0,
    limits: Limits | None = None,
    watch: Watcher = ignore,
) -> Comparison:
    """Each of `presets` as it is, and each of `methods` at each of the budgets, greedily.

    methods act on the frames of `preset` (or `frames`), so they are alike but for the method;
    without a budget each keeps the preset's share. The first row of each set of frames is the
    unreduced model, where it fits. Raises what `answer` raises, before the video is decoded.
    """
    asked, files = check_question(question), told_apart(path)
    spec = read_spec(model, revision=revision) if isinstance(model, str) else model.spec
    sampling = Sampling(max_new_tokens, 0.0, seed)
    wanted = [
        *((_name(p), _loaded(p), _plain(frames)) for p in presets),
        *_grid(_loaded(preset), methods, mean_budgets, budgets, frames),
    ]
    if not wanted:
        raise SettingError("nothing to compare: give --presets, --methods, or both")
    clock = Clock(watch)
    stills = read_stills(files, spec, clock) if files.pictures else None
    laid = stills.layouts(spec) if stills else ()
    settings = [_Setting(label, settle(p, spec, over, sampling, laid)) for label, p, over in wanted]
    settings = _with_references(settings, spec, sampling, clock)
    if stills and frames is not None:
        clock.warn("--frames: only for videos, of no effect on pictures")
    if isinstance(model, str):
        check(model, revision)
    with Decoder(limits or Limits()) as child:
        subject = stills or probed(files, child, clock)
        settings = [_Setting(s.label, _known(s.plan, spec, subject)) for s in settings]
        loaded = model
        if isinstance(loaded, str):
            with clock.part("load"):
                loaded = load(
                    loaded,
                    revision=revision,
                    device=device,
                    dtype=dtype,
                    quantize=quantize,
                    on_event=watch,
                )
        for setting in settings:
            check_context(setting.plan, spec, loaded.text_tokens(asked, None))
        with memory.sufficient(_TOO_SMALL):
            rows = _rows(child, loaded, subject, settings, asked, clock)
    shared = clock.seconds()
    spent = {"load": shared.load, "decode": shared.decode, "encode": shared.encode}
    return Comparison(tuple(rows), spent, clock.warnings)


def _grid(
    base: Preset,
    methods: Sequence[str],
    mean_budgets: Sequence[int],
    budgets: Sequence[int],
    frames: int | None,
) -> list[tuple[str, Preset, Overrides]]:
    """Every method at every budget."""
    plain = _plain(frames)
    cells = [
        *((f" mean {n:,}", replace(plain, mean_budget=n)) for n in mean_budgets),
        *((f" {n:,} in", replace(plain, budget=n)) for n in budgets),
    ] or [("", plain)]
    return [
        (method + text, base, replace(over, method=method))
        for text, over in cells
        for method in methods
    ]


def _plain(frames: int | None) -> Overrides:
    """Every sampled frame is looked at, so that all settings see the same."""
    return Overrides(frames=frames, skip_duplicates="off")


def _with_references(
    settings: list[_Setting], spec: ModelSpec, sampling: Sampling, clock: Clock
) -> list[_Setting]:
    """The same, the unreduced model before the first of each set of frames, where it fits."""
    found: list[_Setting] = []
    done = set()
    order = list(dict.fromkeys(setting.frames for setting in settings))
    for setting in sorted(settings, key=lambda setting: order.index(setting.frames)):
        if setting.frames not in done:
            done.add(setting.frames)
            whole = replace(
                setting.plan,
                label="none",
                preset="none",
                budget=None,
                mean_budget=None,
                keep=Fraction(1),
                merge=None,
                within=None,
                prunes=(),
                sampling=sampling,
            )
            try:
                check_context(whole, spec, 0)
                found.append(_Setting(f"{FULL}, {whole.frames} {whole.what}", whole))
            except SettingError as refused:
                clock.warn(f"nothing to compare with at {whole.frames} {whole.what}: {refused}")
        found.append(setting)
    return found


def _known(plan: Plan, spec: ModelSpec, subject: Subject) -> Plan:
    if isinstance(subject, Stills):
        return plan
    probe = subject.probe
    return of_video(plan, spec, probe.seconds, probe.fps, shown(probe.path))


def _rows(
    child: Decoder,
    model: VideoModel,
    subject: Subject,
    settings: Sequence[_Setting],
    question: str,
    clock: Clock,
) -> list[Row]:
    rows: list[Row] = []
    for _, group in groupby(settings, key=lambda setting: setting.frames):
        alike = list(group)
        shared = look(child, model, subject, [setting.plan for setting in alike], clock)
        # What is set up once is not the first setting's to pay.
        short = replace(alike[-1].plan.sampling, max_new_tokens=1)
        _one(model, shared, replace(alike[-1].plan, sampling=short), question)
        reference = None
        for setting in alike:
            answer, peak = _one(model, shared, setting.plan, question)
            if setting.label.startswith(f"{FULL}, "):
                reference = answer.answer
            same = None if reference is None else answer.answer == reference
            rows.append(Row(setting.label, answer, same, peak))
    return rows


def _one(
    model: VideoModel, encoded: Encoded, plan: Plan, question: str
) -> tuple[Answer, int | None]:
    own = Clock()
    memory.reset_device_peak(model.device)
    told = memory.reset_host_peak()
    answer = reply(model, merge(model, encoded, plan, own), question, plan, own)
    peak = memory.device_peak_bytes(model.device)
    if peak is None and told:
        peak = memory.host_peak_bytes()
    return answer, peak


def _loaded(preset: str | Preset) -> Preset:
    return preset if isinstance(preset, Preset) else load_preset(preset)


def _name(preset: str | Preset) -> str:
    return preset.name if isinstance(preset, Preset) else preset
