"""A look at the files and the model's configuration, for `tokenreduce plan`; reads no option."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tokenreduce import memory
from tokenreduce.cache.store import default_folder
from tokenreduce.clock import Clock
from tokenreduce.events import Event, Warned
from tokenreduce.footprint import DRIVER_BYTES
from tokenreduce.forecast import Case, Forecast, Refused, forecast
from tokenreduce.imagined import in_nf4, is_here, placed_for, room_for
from tokenreduce.models.base import Sampling
from tokenreduce.models.builtin import planned_spec
from tokenreduce.models.load import as_stored
from tokenreduce.models.placement import choose_device
from tokenreduce.opening import Wanted, heard, warn_of_no_use
from tokenreduce.plan import Overrides
from tokenreduce.subject import probed, read_stills, told_apart
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import shown
from tokenreduce.video.types import Limits

from . import render
from .cost import size
from .plan_view import Memory, details, table
from .sessions import OVER


@dataclass(frozen=True)
class Look:
    """values: of every setting, by name. wanted: but for the preset. builtin: the sizes are those
    that come with the package, and the model is not here."""

    values: Mapping[str, Any]
    wanted: Wanted
    case: Case
    builtin: bool

    @classmethod
    def at(cls, files: Sequence[str], values: Mapping[str, Any], *, many: bool) -> Look:
        """many: for several questions. Raises a TokenReduceError for whatever cannot be."""
        name, revision = values["model"], values["revision"]
        spec, builtin = planned_spec(name, revision, offline=values["offline"])
        bytes_ = values["vram"] if isinstance(values["vram"], int) else None
        quantize = as_stored(name, values["quantize"], revision)
        device, dtype, spread = values["device"], values["dtype"], values["device_map"]
        where = placed_for(spec, device, dtype, quantize, bytes_, spread)
        room, nf4 = room_for(where, values["vram"]), in_nf4(where, spec, name, revision)
        wanted = Wanted(
            files[0] if len(files) == 1 else tuple(files),
            over=Overrides(**{name: values[name] for name in OVER}),
            sampling=Sampling(values["max_new_tokens"]),
            subtitles=values["subtitles"],
        )
        apart, clock = told_apart(wanted.path), Clock(_warned)
        if apart.pictures:
            warn_of_no_use(wanted, clock)
            case = Case(read_stills(apart, spec, clock), spec, where, room, nf4, many=many)
            return cls(values, wanted, case, builtin)
        child = Decoder(Limits())
        try:
            subject = probed(apart, child, clock)
            said = heard(wanted, subject, child, clock)
        finally:
            child.close()
        folder = default_folder(os.environ)
        return cls(
            values, wanted, Case(subject, spec, where, room, nf4, said, many, folder), builtin
        )

    def ahead(self, preset: str) -> Forecast | Refused:
        return forecast(replace(self.wanted, preset=preset), self.case)

    def to_json(self, found: Sequence[Forecast | Refused]) -> dict[str, Any]:
        case = self.case
        return {
            "file": asdict(case.subject.facts),
            "images": [asdict(one) for one in case.subject.images],
            "chat": case.many,
            "model": case.spec.name,
            "builtin": self.builtin,
            "device": str(case.where.device),
            "dtype": str(case.where.dtype).removeprefix("torch."),
            "quantize": case.where.quantize,
            "limit": self._memory.limit,
            "host_free": self._memory.host_free,
            "plans": [one.to_json() for one in found],
        }

    def show(self, found: Sequence[Forecast | Refused]) -> None:
        """What is planned for, and the first presets in full."""
        case = self.case
        dtype = str(case.where.dtype).removeprefix("torch.")
        quantize = "not quantised" if case.where.quantize == "none" else case.where.quantize
        known = "; its sizes are built in, the model is not here" if self.builtin else ""
        rows = [self._files(), ("model", f"{case.spec.name}, {quantize}, {dtype}{known}")]
        rows += [("device", self._device()), *self._elsewhere()]
        if case.many:
            before = "" if case.spec.toy_world else ", with what was said before"
            rows.append(("questions", f"several{before}"))
        for one in found:
            about = details(one, self._memory, pictures=bool(case.subject.images))
            rows += [("", ""), *about]
        width = max(len(label) for label, _ in rows)
        for label, text in rows:
            render.columns([(f"{label:<{width}}", text)], tied=True)

    def listed(self, found: Sequence[Forecast | Refused]) -> None:
        """Every preset in a line."""
        render.line()
        render.columns(table(found, self._memory), tied=True)

    @property
    def _memory(self) -> Memory:
        case = self.case
        kind = case.where.device.type
        return Memory(
            None if case.room is None else max(0, case.room.limit_bytes),
            memory.host_free_bytes() if kind == "cpu" else None,
            card=kind == "cuda",
        )

    def _files(self) -> tuple[str, str]:
        subject = self.case.subject
        if subject.images:
            each = [f"{shown(one.path)}: {one.width:,} x {one.height:,}" for one in subject.images]
            return "file" if len(each) == 1 else "files", "; ".join(each)
        facts = subject.facts
        told = f"{facts.seconds:,.1f} s, {facts.width:,} x {facts.height:,}"
        return "file", f"{shown(facts.path)}: {told}"

    def _device(self) -> str:
        kind, room, free = str(self.case.where.device), self.case.room, self._memory.host_free
        if room is None:
            return kind if free is None else f"{kind}, {size(free)} of the host's memory free"
        told = f"{kind}, {room.named}"
        left = f"{size(max(0, room.limit_bytes))} for tensors, 3 % to be left free"
        if not (self._memory.card and isinstance(self.values["vram"], int)):
            return f"{told}: {left}"
        driver = f"about {size(DRIVER_BYTES)} for the driver"
        return f"{told}: {driver}, " + (left if room.limit_bytes > 0 else "and that is all of it")

    def _elsewhere(self) -> list[tuple[str, str]]:
        """Of a card that is only planned for, what a question would do here."""
        if is_here(self.case.where):
            return []
        told = "no card is here: "
        if self.values["device"] != "auto":
            return [("", f"{told}a question with --device {self.values['device']} is refused")]
        here = choose_device("auto")
        return [
            (
                "",
                f"{told}a question asked on this machine runs on {here}, where tensors may take "
                f"all of --vram; --device {here} plans for that",
            )
        ]


def _warned(event: Event) -> None:
    if isinstance(event, Warned):
        render.warning(event.message)
