"""What a session is about, found out before anything is decoded and before any weight is loaded.

All that can be refused is refused here, the cheapest first. Knows neither questions nor models'
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokenreduce.cache.digest import of_file
from tokenreduce.cache.store import Cache
from tokenreduce.captions import Line
from tokenreduce.clock import Clock
from tokenreduce.errors import InputError
from tokenreduce.models.base import Sampling
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Overrides, Plan, of_video, settle
from tokenreduce.preset import Preset, load_preset
from tokenreduce.remember import Found, Shelf, family_of
from tokenreduce.subject import FilePath, Footage, Stills, Subject, probed, read_stills, told_apart
from tokenreduce.subtitles import read as read_subtitles
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown
from tokenreduce.window import check_context

EMBEDDED = "embedded"
"""As the subtitles: the video's own text track."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for, as it was given. subtitles: a file, EMBEDDED, or None."""

    path: FilePath | Sequence[FilePath]
    preset: str | Preset = "balanced"
    over: Overrides = field(default_factory=Overrides)
    sampling: Sampling = field(default_factory=Sampling)
    subtitles: FilePath | None = None

    def settled(self, spec: ModelSpec, stills: Stills | None) -> Plan:
        """Raises SettingError, see `plan.settle`."""
        preset = self.preset if isinstance(self.preset, Preset) else load_preset(self.preset)
        laid = stills.layouts(spec) if stills else ()
        return settle(preset, spec, self.over, self.sampling, laid)


@dataclass(frozen=True)
class Kept:
    """A cache, and what in it tells one model from another. placement: as asked for."""

    cache: Cache
    model: str
    placement: Mapping[str, str]

    def shelf(self, plan: Plan, spec: ModelSpec, path: FilePath, clock: Clock) -> Shelf | None:
        """Where the video's tokens would be; None if the file cannot be told by its content, or
        what is seen of it depends on more than that."""
        if plan.within is not None:
            return None
        with clock.part("digest"):
            digest = of_file(path, self.cache)
        if digest is None:
            return None
        family = family_of(plan, spec, digest, self.model, self.placement)
        return Shelf(self.cache, digest, family, spec)


@dataclass(frozen=True)
class Opened:
    """shelf: where to keep what will be viewed; found: it is there already; said: subtitles."""

    subject: Subject
    plan: Plan
    shelf: Shelf | None = None
    found: Found | None = None
    said: tuple[Line, ...] = ()


def opened(
    wanted: Wanted, spec: ModelSpec, child: Decoder, kept: Kept | None, clock: Clock
) -> Opened:
    """Raises InputError for the files and the subtitles, SettingError for what cannot be done."""
    files = told_apart(wanted.path)
    stills = read_stills(files, spec, clock) if files.pictures else None
    plan = wanted.settled(spec, stills)
    if stills:
        warn_of_no_use(wanted, clock)
        check_context(plan, spec, 0)
        return Opened(stills, plan)
    path = files.paths[0]
    said = _subtitles(wanted, clock)
    shelf = None if kept is None else kept.shelf(plan, spec, path, clock)
    shelved = None if shelf is None else shelf.footage(path)
    subject = Footage(shelved) if shelved else probed(files, child, clock)
    probe = subject.probe
    plan = of_video(plan, spec, probe.seconds, probe.fps, shown(path))
    check_context(plan, spec, 0, plan.raw)
    if wanted.subtitles == EMBEDDED:
        said = _embedded(subject, child, clock)
    return Opened(subject, plan, shelf, None if shelf is None else shelf.find(plan), said)


def reopened(
    about: Opened, wanted: Wanted, spec: ModelSpec, kept: Kept | None, clock: Clock
) -> Opened:
    """The same file, of which all is known, with other settings. Raises SettingError for what
    cannot be done with them."""
    if isinstance(about.subject, Stills):
        return replace(about, plan=wanted.settled(spec, about.subject))
    probe = about.subject.probe
    settled = wanted.settled(spec, None)
    plan = of_video(settled, spec, probe.seconds, probe.fps, shown(probe.path))
    check_context(plan, spec, 0, plan.raw)
    # Of the plan before the video was known, as in `opened`: else each would keep its own.
    shelf = None if kept is None else kept.shelf(settled, spec, probe.path, clock)
    return replace(about, plan=plan, shelf=shelf, found=None if shelf is None else shelf.find(plan))


def warn_of_no_use(wanted: Wanted, clock: Clock) -> None:
    """Of what was set for pictures and only counts for videos."""
    names = [name.replace("_", "-") for name in wanted.over.of_videos]
    names += ["subtitles"] if wanted.subtitles is not None else []
    if names:
        listed = ", ".join(f"--{name}" for name in names)
        clock.warn(f"{listed}: only for videos, of no effect on pictures")


def heard(wanted: Wanted, subject: Footage, child: Decoder, clock: Clock) -> tuple[Line, ...]:
    """The subtitles alone, of a video that was probed. Raises InputError."""
    if wanted.subtitles == EMBEDDED:
        return _embedded(subject, child, clock)
    return _subtitles(wanted, clock)


def _subtitles(wanted: Wanted, clock: Clock) -> tuple[Line, ...]:
    """Of a file of their own, which is read before the whole video is, for its digest."""
    if wanted.subtitles is None or wanted.subtitles == EMBEDDED:
        return ()
    return read_subtitles(wanted.subtitles, clock.warn)


def _embedded(subject: Footage, child: Decoder, clock: Clock) -> tuple[Line, ...]:
    with clock.part("probe"):
        said = child.subtitles(subject.probe.path, subject.probe)
    if said is None:
        raise InputError(
            f"{shown(subject.probe.path)}: has no text track that can be read; give a subtitle "
            "file, or leave --subtitles out"
        )
    return said
