"""What was viewed, kept on disk and found again: which facts make two viewings the same.

Knows the cache's families and variants, and nothing about how a video is viewed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tokenreduce
from tokenreduce.budget import Layout
from tokenreduce.cache.digest import Digest, FileState, unchanged
from tokenreduce.cache.store import Cache, Entry
from tokenreduce.deriving import derivable, derived
from tokenreduce.models.base import VideoModel
from tokenreduce.models.files import CONFIG, weight_files
from tokenreduce.models.locate import complete_here, resolve
from tokenreduce.models.spec import ModelSpec
from tokenreduce.plan import Plan
from tokenreduce.subject import FilePath, Footage
from tokenreduce.tokens import Tokens
from tokenreduce.video.types import Probe
from tokenreduce.viewing import Viewed
from tokenreduce.watching import Watched

_NO_PART = ("batch", "demo")
"""Packages of this one that have no part in what a video's tokens are."""


@dataclass(frozen=True)
class Shelf:
    """Where one video's visual tokens stand in a cache.

    family: all that makes them what they are before any merging
    """

    cache: Cache
    digest: Digest
    family: Mapping[str, Any]
    spec: ModelSpec

    def footage(self, path: FilePath) -> Probe | None:
        """What the probe of this very file said before. path: as the file is named now."""
        for entry in self.entries:
            if found := _read(entry):
                return replace(found.probe, path=os.fspath(path))
        return None

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        return self.cache.lookup(self.family)

    def find(self, plan: Plan) -> Found | None:
        """What is there for `plan`, a plan of `plan.of_video`, told without reading the tokens."""
        for entry in self.entries:
            found = _read(entry)
            if found is None:
                continue
            raw = self.spec.layout(found.watched.frames(plan)).available
            if entry.tokens == min(plan.budget_for(raw), raw) and (
                entry.tokens == raw or entry.variant.get("merge") == _merge(plan)
            ):
                return found
        return next((one for one in map(_read, self.entries) if self._leads_to(plan, one)), None)

    def _leads_to(self, plan: Plan, found: Found | None) -> bool:
        """Whether what the plan wants can be derived from it."""
        if found is None:
            return False
        layout, tokens = self.spec.layout(found.watched.frames(plan)), found.entry.tokens
        merged = tokens < layout.available
        if merged and found.entry.variant.get("merge") != _merge(plan):
            return False
        return derivable(plan, layout, tokens, merged=merged)

    def load(self, found: Found, plan: Plan, model: VideoModel, subject: Footage) -> Viewed | None:
        """None if it is damaged or gone."""
        loaded = self.cache.load(found.entry)
        if loaded is None:
            return None
        parts = loaded.tensors
        layout = self.spec.layout(found.watched.frames(plan))
        budget = plan.budget_for(layout.available)
        device, dtype = model.device, model.dtype
        if parts["x"].shape[2] != self.spec.text.width or parts["x"].dtype != dtype:
            return None
        visual = Tokens(*(parts[name].to(device) for name in ("x", "size", "place")))
        if not _fits(visual, layout):
            return None
        if visual.count > budget:
            visual = derived(plan, layout, visual, model.newline())
        return Viewed(
            subject,
            visual,
            layout,
            (layout,),
            found.watched,
            len(found.watched.seconds),
            budget,
            layout.available,
            plan.prunes_for(visual.count),
            cached=True,
        )

    def save(self, viewed: Viewed, plan: Plan) -> None:
        """Keeps it, unless the file is no longer what was digested."""
        if not isinstance(viewed.subject, Footage) or viewed.watched is None:
            return
        probe = viewed.subject.probe
        if not unchanged(probe.path, self.digest):
            return
        tensors = {"x": viewed.visual.x, "size": viewed.visual.size, "place": viewed.visual.place}
        facts = {
            "file": Path(probe.path).name,
            "model": self.spec.name,
            "probe": asdict(probe) | {"path": ""},
            "watched": asdict(viewed.watched),
        }
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        variant: dict[str, Any] = {"tokens": viewed.visual.count, "merge": None}
        if viewed.visual.count < viewed.raw:
            variant["merge"] = _merge(plan)
        self.cache.save(self.family, variant, kept, facts)


@dataclass(frozen=True)
class Found:
    """An entry that fits. probe, watched: what it says of the video."""

    entry: Entry
    probe: Probe
    watched: Watched


def family_of(
    plan: Plan, spec: ModelSpec, digest: Digest, model: str, placement: Mapping[str, str]
) -> dict[str, Any]:
    """All that makes the visual tokens of a video what they are before any merging.

    model     what tells its files, see `identity`
    placement device, dtype and the like, as asked for: features differ in their last bits
    """
    ends = (plan.start, plan.end)  # by what they mean: two may be written alike, for people
    return {
        "file": digest.value,
        "range": [(moment.value, moment.of_length) if moment else None for moment in ends],
        "frames": [plan.most if plan.fps else plan.frames, plan.fps, plan.seek, plan.decoder],
        "skip": [plan.skip, plan.fills_in],
        "model": model,
        "preprocessing": repr((spec.vision, spec.pool, spec.layout(1))),
        "placement": dict(placement),
        "code": code(),
    }


def _merge(plan: Plan) -> list[Any]:
    """What makes merged tokens what they are, but for how many there are."""
    return [repr(plan.merge), plan.merge_site, plan.newlines, plan.sampling.seed]


def identity(name: str, revision: str | None) -> str | None:
    """What tells a model's files from any others without reading weights: configuration, and for
    each file of weights its size and times. None where they are not on this machine yet."""
    folder = complete_here(resolve(name, revision))
    if folder is None:
        return None
    told = hashlib.blake2b(digest_size=16)
    told.update((folder / CONFIG).read_bytes())
    for path in weight_files(folder, name):
        told.update(repr((path.name, FileState.of(path.stat()))).encode())
    return told.hexdigest()


@cache
def code() -> str:
    """Of everything that may take part: this package's sources and the libraries' versions."""
    told = hashlib.blake2b(digest_size=16)
    root = Path(tokenreduce.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] in _NO_PART:
            continue
        told.update(path.relative_to(root).as_posix().encode())
        told.update(path.read_bytes())
    for name in ("torch", "transformers", "av", "decord", "numpy", "pillow"):
        told.update(f"{name} {_version(name)}".encode())
    return told.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _read(entry: Entry) -> Found | None:
    """What an entry says; None if it does not say it as this version does."""
    try:
        probe = Probe(**dict(entry.facts["probe"]))
        told = dict(entry.facts["watched"])
        for name in ("seconds", "stands", "every"):
            told[name] = tuple(told[name])
        return Found(entry, probe, Watched(**told))
    except (KeyError, TypeError, ValueError):
        return None


def _fits(visual: Tokens, layout: Layout) -> bool:
    """Whether places are those of tokens of `layout`, in order."""
    place = visual.place[0]
    if place.shape[0] == 0 or int(place[0]) < 0 or int(place[-1]) >= layout.available:
        return False
    return bool((place.diff() > 0).all())
