"""What is done with the file of a session: settled, opened, made to fit its device, changed.

Knows which settings are asked for now and which were given. Decodes nothing, loads no weights, and
knows no question.
"""

from __future__ import annotations

from dataclasses import replace

from tokenreduce import memory
from tokenreduce.cache.store import Cache
from tokenreduce.clock import Clock
from tokenreduce.making_room import Made, Maker, advice, planner
from tokenreduce.models.base import VideoModel
from tokenreduce.models.batched import batch_size, in_batches
from tokenreduce.occupant import Occupant
from tokenreduce.opening import Kept, Opened, Wanted, opened, reopened
from tokenreduce.plan import Overrides, Plan
from tokenreduce.preset import Preset
from tokenreduce.result import Fitted
from tokenreduce.room import room_on, unlimited
from tokenreduce.sizing import bounded
from tokenreduce.subject import check_there
from tokenreduce.video.decoder import Decoder


class Course:
    """wanted: as given; cache: of visual tokens, None keeps nothing and finds nothing."""

    def __init__(
        self, wanted: Wanted, model: Occupant, child: Decoder, cache: Cache | None, maker: Maker
    ) -> None:
        self._given = self.wanted = wanted
        self._model = model
        self._child = child
        self._cache = cache
        self._maker = maker
        self._opened: Opened | None = None
        self._stepped: Fitted | None = None
        self._batch: int | None = None
        self._warned = False
        self.fitted = Fitted()

    @property
    def plan(self) -> Plan | None:
        """What is done with the file; None before it is opened."""
        return None if self._opened is None else self._opened.plan

    @property
    def limited(self) -> bool:
        """Whether the device's memory is."""
        return self._maker.allowed.anything

    def planned(self, over: Overrides) -> Plan:
        """What other settings lead to, with no more frames than the file has. Raises SettingError
        for what cannot be; ValueError before the file is opened."""
        if self._opened is None:
            raise ValueError("the file is not opened yet")
        spec = self._model.spec()
        return bounded(planner(self.wanted, self._opened.subject, spec)(over), spec)

    @property
    def opened_and_loaded(self) -> bool:
        """Whether the file is opened, and the model on its device."""
        return self._opened is not None and self._model.loaded is not None

    def less(self) -> Made | None:
        """Half of everything, where memory did not suffice. None where that may not be, was done
        before, or cannot be."""
        if self._opened is None or not self._maker.allowed.fit or self._stepped is not None:
            return None
        model = self._model.loaded
        batch = 1 if model is None else batch_size(in_batches(model, self._batch))
        return self._maker.stepped(self.wanted, batch, self.planned)

    def take(self, less: Made) -> None:
        """What `less` gave, from now on."""
        self.wanted, self._batch, self._stepped = less
        self._opened = None
        if self._model.loaded is not None:
            memory.free_device(self._model.loaded.device)

    def advice(self) -> str:
        """What to do where the memory did not suffice for what is opened. ValueError before."""
        model = self._model.loaded
        return advice(
            self.wanted.over,
            self.planned,
            quantized=model is not None and model.quantize == "nf4",
            may_fit=not self._maker.allowed.fit,
        )

    def change(self, preset: str | Preset | None, over: Overrides | None) -> None:
        """Another preset or other settings from now on. Raises as `open`, and leaves all as it
        was, for what cannot be."""
        wanted = replace(
            self._given,
            preset=self._given.preset if preset is None else preset,
            over=self._given.over if over is None else over,
        )
        if self._opened is None:
            wanted.settled(self._model.spec(), None)
            self.wanted = wanted
        else:
            self._opened = self._open(wanted, Clock(), None, None)
        self._given, self._stepped = wanted, None

    def open(self, clock: Clock) -> Opened:
        """At the first call opened, and made to fit where memory is limited; told in `fitted`.

        Raises InputError for files, SettingError for what cannot be done, ModelError for a model's
        files, CapacityError for what does not fit; then all is left as it was.
        """
        if self._opened is None:
            self._opened = self._open(self.wanted, clock, self._stepped, self._batch)
        return self._opened

    def loaded(self, clock: Clock) -> VideoModel:
        """The model, with as many frames at once in its tower as fit. Raises as
        `models.load.load`."""
        return in_batches(self._model.here(clock), self._batch)

    def _open(
        self, wanted: Wanted, clock: Clock, stepped: Fitted | None, batch: int | None
    ) -> Opened:
        """stepped, batch: of a step down that came before, None without one."""
        if self._model.awaited:  # told before anything of it is fetched
            check_there(wanted.path)
        where = self._model.placement(clock)
        # Of layers that are spread nothing is foreseen: `spread` leaves room on every GPU.
        room = None if where.layers else room_on(where.device, self._maker.allowed)
        # In a batch the worker says so.
        note = None if self._maker.beside else unlimited(where.device, self._maker.allowed)
        if note is not None and not self._warned:
            clock.warn(note)
            self._warned = True
        spec = self._model.spec()
        found = opened(wanted, spec, self._child, self._kept(), clock)
        self._model.check()
        changed = () if stepped is None else stepped.changed
        told = Fitted(changed=changed)
        if room is not None:
            made = self._maker.made(wanted, found, spec, where, room)
            told = replace(made.told, changed=(*changed, *made.told.changed))
            batch = min(made.batch, batch or made.batch)
            if made.wanted != wanted:
                wanted = made.wanted
                found = reopened(found, wanted, spec, self._kept(), clock)
        if told.changed:
            clock.warn(f"made to fit: {'; '.join(told.changed)}")
        self.wanted, self.fitted, self._batch = wanted, told, batch
        return found

    def _kept(self) -> Kept | None:
        """The cache, if tokens of this model can be told from those of any other."""
        told = None if self._cache is None else self._model.identity()
        if self._cache is None or told is None:
            return None
        return Kept(self._cache, told, self._model.placing.told)
