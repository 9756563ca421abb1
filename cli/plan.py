"""`tokenreduce plan`: what a run would look at, compute and take, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenreduce.video.inputs import checked, shown

from . import options as o
from . import options_seen as s
from . import render
from .ask import calm_libraries
from .interrupts import at_once

if TYPE_CHECKING:
    from tokenreduce.forecast import Forecast, Refused
    from tokenreduce.models.placement import Placement
    from tokenreduce.models.spec import ModelSpec
    from tokenreduce.room import Room
    from tokenreduce.subject import Subject


def plan(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="A local video, or one or more pictures.", show_default=False
        ),
    ],
    presets: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            "-p",
            metavar="NAME",
            help="A preset to tell more of; give it several times. Default: balanced.",
        ),
    ] = None,
    budget: s.Budget = None,
    keep: s.Keep = None,
    mean_budget: s.MeanBudget = None,
    method: s.Method = None,
    frames: s.Frames = None,
    fps: s.Fps = None,
    max_frames: s.MaxFrames = None,
    start: s.Start = None,
    end: s.End = None,
    model: o.Model = None,
    revision: o.Revision = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    quantize: o.Quantize = None,
    offline: o.Offline = None,
    max_new_tokens: o.MaxNewTokens = None,
    vram: Annotated[
        str | None,
        typer.Option(
            "--vram",
            metavar="SIZE",
            help="Say what fits into this much: 12GiB, 8GB, 12 (GiB), or auto for what is free on "
            "the card; without a card here, one of that size is planned for. Default: auto where "
            "there is a card, else no limit.",
        ),
    ] = None,
    as_json: o.JsonObject = False,
) -> None:
    """Say what a run would look at, compute and take, and which presets fit; nothing is loaded.

    From the model's configuration and the file's headers. Every preset is
    listed; the one that is named, or balanced, is told in full. Memory and
    seconds are predictions. Exit 0, whatever fits.
    """
    given = dict(locals())
    from .settings import SETTINGS, resolve

    flags = {one.name: given.get(one.name) for one in SETTINGS}
    flags["preset"] = presets[0] if presets else None
    chosen = resolve(flags, os.environ)
    values: dict[str, Any] = {name: one.value for name, one in chosen.items()}
    for name in files:
        checked(name)
    calm_libraries()
    with at_once():
        import tokenreduce.forecast  # noqa: F401  # and with it torch, for all that comes

    told = presets or [values["preset"]]
    from tokenreduce.shipped import preset_names

    listed = list(dict.fromkeys((*told, *preset_names())))
    look = _Look.at(files, values)
    found = [look.ahead(preset) for preset in listed]
    if as_json:
        render.json_object(look.to_json(found))
        return
    look.show(found[: len(told)])
    if len(found) > 1:
        look.listed(found)


class _Look:
    """At the files and the model's configuration."""

    def __init__(
        self,
        values: dict[str, Any],
        subject: Subject,
        spec: ModelSpec,
        where: Placement,
        room: Room | None,
        *,
        builtin: bool,
    ) -> None:
        self._values, self._subject, self._spec = values, subject, spec
        self._where, self._room, self._builtin = where, room, builtin

    @classmethod
    def at(cls, files: Sequence[str], values: dict[str, Any]) -> _Look:
        from tokenreduce.clock import Clock
        from tokenreduce.events import ignore
        from tokenreduce.forecast import placed_for, room_for
        from tokenreduce.models.builtin import planned_spec
        from tokenreduce.models.load import as_stored
        from tokenreduce.subject import probed, read_stills, told_apart
        from tokenreduce.video.decoder import Decoder
        from tokenreduce.video.types import Limits

        spec, builtin = planned_spec(values["model"], values["revision"], offline=values["offline"])
        size = values["vram"] if isinstance(values["vram"], int) else None
        quantize = as_stored(values["model"], values["quantize"], values["revision"])
        where = placed_for(spec, values["device"], values["dtype"], quantize, size)
        room = room_for(where, values["vram"])
        apart, clock = told_apart(files[0] if len(files) == 1 else tuple(files)), Clock(ignore)
        if apart.pictures:
            return cls(values, read_stills(apart, spec, clock), spec, where, room, builtin=builtin)
        child = Decoder(Limits())
        try:
            subject = probed(apart, child, clock)
        finally:
            child.close()
        return cls(values, subject, spec, where, room, builtin=builtin)

    def ahead(self, preset: str) -> Forecast | Refused:
        from tokenreduce.cache.store import default_folder
        from tokenreduce.forecast import forecast
        from tokenreduce.models.base import Sampling
        from tokenreduce.opening import Wanted
        from tokenreduce.plan import Overrides

        from .sessions import OVER

        over = Overrides(**{name: self._values[name] for name in OVER})
        if self._subject.images:
            over = Overrides(**{name: self._values[name] for name in _OF_PICTURES})
        sampling = Sampling(self._values["max_new_tokens"])
        wanted = Wanted(self._subject.facts.path, preset, over, sampling)
        folder = default_folder(os.environ)
        return forecast(wanted, self._subject, self._spec, self._where, self._room, folder)

    def to_json(self, found: Sequence[Forecast | Refused]) -> dict[str, Any]:
        from dataclasses import asdict

        return {
            "file": asdict(self._subject.facts),
            "images": [asdict(one) for one in self._subject.images],
            "model": self._spec.name,
            "builtin": self._builtin,
            "device": str(self._where.device),
            "dtype": str(self._where.dtype).removeprefix("torch."),
            "quantize": self._where.quantize,
            "limit": self._limit,
            "host_free": self._host_free,
            "plans": [one.to_json() for one in found],
        }

    def show(self, found: Sequence[Forecast | Refused]) -> None:
        """What is planned for, and the first presets in full."""
        from .plan_view import details

        where, facts = self._where, self._subject.facts
        dtype = str(where.dtype).removeprefix("torch.")
        quantize = "not quantised" if where.quantize == "none" else where.quantize
        known = "; its sizes are built in, the model is not here" if self._builtin else ""
        length = f"{facts.seconds:,.1f} s, " if not self._subject.images else ""
        rows = [
            ("file", f"{shown(facts.path)}: {length}{facts.width:,} x {facts.height:,}"),
            ("model", f"{self._spec.name}, {quantize}, {dtype}{known}"),
            ("device", self._device()),
        ]
        for one in found:
            rows += [
                ("", ""),
                *details(
                    one, self._limit, pictures=bool(self._subject.images), host_free=self._host_free
                ),
            ]
        width = max(len(label) for label, _ in rows)
        for label, text in rows:
            render.columns([(f"{label:<{width}}", text)], tied=True)

    def listed(self, found: Sequence[Forecast | Refused]) -> None:
        """Every preset in a line."""
        from .plan_view import table

        render.line()
        render.columns(table(found, self._limit), tied=True)

    @property
    def _limit(self) -> int | None:
        return None if self._room is None else max(0, self._room.limit_bytes)

    @property
    def _host_free(self) -> int | None:
        """Where the run would take the host's memory, and that is known."""
        from tokenreduce.memory import host_free_bytes

        return host_free_bytes() if self._where.device.type == "cpu" else None

    def _device(self) -> str:
        from .cost import size

        kind = str(self._where.device)
        if self._room is None or self._limit is None:
            free = self._host_free
            return kind if free is None else f"{kind}, {size(free)} of the host's memory free"
        told = f"{kind}, {self._room.named}"
        return f"{told}: {size(self._limit)} for tensors, 3 % to be left free"


_OF_PICTURES = ("budget", "keep", "mean_budget", "method", "newlines")
