"""How every file of a batch is asked: the settings, what of them changes an answer, a session.

Travels to workers, so it holds names and numbers and no loaded thing. Knows no file and no row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from tokenreduce.cache.store import Cache
from tokenreduce.errors import SettingError
from tokenreduce.events import Watcher, ignore
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.fetching import weights_folder
from tokenreduce.models.files import CONFIG, weight_files
from tokenreduce.models.load import check, read_spec
from tokenreduce.models.locate import resolve
from tokenreduce.moments import Moment
from tokenreduce.occupant import Placing
from tokenreduce.opening import EMBEDDED, Wanted
from tokenreduce.plan import Overrides
from tokenreduce.preset import Preset, load_preset
from tokenreduce.room import NO_LIMIT, Allowed
from tokenreduce.session import Session
from tokenreduce.turns import Turn
from tokenreduce.video.decoder import Decoder

_ENDS_BYTES = (64 << 10, 1 << 20)
"""Of each file of weights, beginning and end: what tells two trainings of one model."""


@dataclass(frozen=True)
class Recipe:
    """cache_folder: of visual tokens, None keeps none. subtitles: EMBEDDED or None."""

    model: str
    preset: Preset
    over: Overrides
    sampling: Sampling
    placing: Placing
    subtitles: str | None = None
    cache_folder: str | None = None
    allowed: Allowed = NO_LIMIT

    @classmethod
    def of(
        cls,
        model: str,
        preset: str | Preset,
        over: Overrides,
        sampling: Sampling,
        placing: Placing,
        subtitles: str | None,
        cache_folder: str | None,
        allowed: Allowed | None = None,
    ) -> Recipe:
        """Reads the preset now, so that a file that changes during a run changes nothing in it.

        Raises SettingError for a preset that is none, and for subtitles that belong to one file.
        """
        if subtitles not in (None, EMBEDDED):
            raise SettingError(
                f"subtitles is {subtitles!r}, one file for all videos; a batch takes only "
                "'embedded', each video's own text track"
            )
        read = preset if isinstance(preset, Preset) else load_preset(preset)
        return cls(
            model, read, over, sampling, placing, subtitles, cache_folder, allowed or NO_LIMIT
        )

    def check(self, on_event: Watcher = ignore) -> None:
        """Raises SettingError or ModelError for whatever no file could be asked with. A model that
        is not here is downloaded now, once for all workers; no weight is loaded."""
        revision, offline = self.placing.revision, self.placing.offline
        spec = read_spec(self.model, revision=revision, offline=offline)
        Wanted("", self.preset, self.over, self.sampling).settled(spec, None)
        whole = self.placing.quantize in ("none", "int8")  # of which nothing saved will do
        source = resolve(self.model, revision, offline=offline)
        weights_folder(source, on_event, quantised=False if whole else None)
        check(self.model, self.placing.revision)

    @cached_property
    def weights_bytes(self) -> int:
        """Of the checkpoint's files. After `check`."""
        folder = weights_folder(resolve(self.model, self.placing.revision))
        return sum(path.stat().st_size for path in weight_files(folder, self.model))

    @cached_property
    def facts(self) -> dict[str, str]:
        """All that changes an answer, by name, for people. After `check`.

        Not the device, nor this package's version: rows say themselves what they were made with.
        """
        found = {
            "model": self.model,
            "weights": _told(self.model, self.placing.revision),
            "preset": self.preset.name,
            "preset says": _short(repr(replace(self.preset, summary=""))),
            "revision": self.placing.revision,
            "dtype": self.placing.dtype,
            "quantize": self.placing.quantize,
            "subtitles": self.subtitles,
            "vram": self.allowed.vram,
            "fit": self.allowed.fit or None,
            **{one.name: getattr(self.over, one.name) for one in fields(Overrides)},
            **{one.name: getattr(self.sampling, one.name) for one in fields(Sampling)},
        }
        return {name: _written(value) for name, value in found.items() if value is not None}

    @cached_property
    def digest(self) -> str:
        """Of the facts: 64 hexadecimal digits."""
        told = json.dumps(self.facts, sort_keys=True).encode()
        return hashlib.blake2b(told, digest_size=32, person=b"tokenreduce set").hexdigest()

    def on(self, device: str) -> Recipe:
        """The same on another device."""
        return replace(self, placing=replace(self.placing, device=device))

    def session(
        self,
        path: str,
        model: VideoModel,
        decoder: Decoder,
        over: Overrides,
        *,
        many: bool,
        turn: Turn | None = None,
    ) -> Session:
        """About one file. over: the recipe's own, or what a lack of memory made of them; many:
        it has more than one question; turn: see `viewing.see`."""
        folder = self.cache_folder
        return Session(
            Wanted(path, self.preset, over, self.sampling, self.subtitles),
            model=model,
            named=self.model,
            placing=self.placing,
            decoder=decoder,
            cache=None if folder is None else Cache(Path(folder)),
            many=many,
            turn=turn,
            allowed=self.allowed,
        )


def differences(made_with: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In one line, what is other now: "preset fast (was balanced), seed 1 (was 0)"."""
    told = []
    for name in dict.fromkeys((*made_with, *now)):
        before, after = made_with.get(name, "not set"), now.get(name, "not set")
        if before != after:
            told.append(f"{name.replace('_', ' ')} {after} (was {before})")
    return ", ".join(told)


def _written(value: object) -> str:
    """Equal values are written alike, however they were given."""
    if isinstance(value, Moment):
        return f"{value.value!r}{' of the length' if value.of_length else ' s'}"
    if isinstance(value, (int, float, Fraction)) and not isinstance(value, bool):
        return str(Fraction(str(value)))
    return str(value)


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _told(name: str, revision: str | None) -> str:
    """Tells a model's files from others, alike on every machine: configuration, and of each file of
    weights its name, its size and its ends. Milliseconds; a whole digest would take minutes."""
    folder = weights_folder(resolve(name, revision))
    told = hashlib.blake2b((folder / CONFIG).read_bytes(), digest_size=6)
    for path in sorted(weight_files(folder, name)):
        size = path.stat().st_size
        told.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            told.update(file.read(_ENDS_BYTES[0]))
            file.seek(max(0, size - _ENDS_BYTES[1]), os.SEEK_SET)
            told.update(file.read())
    return told.hexdigest()
