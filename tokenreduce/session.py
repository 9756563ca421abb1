"""One video, or pictures, and a model that is asked about them, once or many times.

The file is decoded and encoded at the first question, or taken from the cache; further questions
pay for themselves alone. Knows what happens when, and nothing about how; never prints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType

from tokenreduce import memory
from tokenreduce.cache.store import Cache
from tokenreduce.clock import Clock
from tokenreduce.course import Course
from tokenreduce.errors import CapacityError
from tokenreduce.events import Watcher, ignore
from tokenreduce.making_room import Maker
from tokenreduce.models.base import Stem, VideoModel, never
from tokenreduce.occupant import Occupant, Placing
from tokenreduce.opening import Opened, Wanted
from tokenreduce.plan import Overrides, Plan, check_question
from tokenreduce.preset import Preset
from tokenreduce.replying import Turn, asked, foreseen, words
from tokenreduce.result import Answer, Fitted
from tokenreduce.room import NO_LIMIT, Allowed
from tokenreduce.sheet import Sheet
from tokenreduce.subject import Footage
from tokenreduce.turns import AHEAD, alone, in_turn
from tokenreduce.turns import Turn as Lock
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Limits
from tokenreduce.viewing import Viewed, see
from tokenreduce.watching import tell
from tokenreduce.window import check_context

_TOO_SMALL = (
    "the device's memory does not suffice for this: set a smaller --budget, fewer --frames, or "
    "--quantize nf4"
)


class Session:
    """Answers questions about what is wanted, with one model.

    model      a name, or a loaded VideoModel, to which `placing` no longer applies
    cache      of visual tokens; None keeps nothing and finds nothing. Only for models by name
    keep_sheet thumbnails of the frames are kept, in `sheet`; then the cache is not asked
    many       further questions are expected, so what the model has read is kept for them
    named      under which name a loaded model was loaded, with `placing`; without, nothing of it
               is kept in the cache
    decoder    lent: it outlives the session, and nothing else uses it meanwhile
    turn       see `viewing.see`; the session is one of a batch. Where memory is limited it is held
               while the model answers, too
    allowed    limits of the device's memory, and what may be changed to keep to them
    finished   told of each answer, and of the model that gave it

    Nothing is read before the first question. Not for several threads at once. Leave the `with`
    block or call `close`: no decoding child outlives it.
    """

    def __init__(
        self,
        wanted: Wanted,
        *,
        model: str | VideoModel = "llava-video-7b",
        placing: Placing | None = None,
        limits: Limits | None = None,
        cache: Cache | None = None,
        keep_sheet: bool = False,
        many: bool = False,
        named: str | None = None,
        decoder: Decoder | None = None,
        turn: Lock | None = None,
        allowed: Allowed | None = None,
        finished: Callable[[Answer, VideoModel], None] | None = None,
        watch: Watcher = ignore,
    ) -> None:
        self._finished = finished
        limits_of = allowed or NO_LIMIT
        vram_bytes = limits_of.vram if isinstance(limits_of.vram, int) else None
        occupant = Occupant(model, placing or Placing(), named, vram_bytes)
        self._lent = decoder is not None
        self._turn = turn
        self._child = decoder or Decoder(limits or Limits())
        maker = Maker(limits_of, many, AHEAD if turn is not None else 0)
        # Who wants to see the frames gets none from the cache.
        kept = None if keep_sheet else cache
        self._course = Course(wanted, occupant, self._child, kept, maker)
        self._keep_sheet = keep_sheet
        self._many = many
        self._watch = watch
        self._viewed: Viewed | None = None
        self._stem: Stem | None = Stem() if many else None
        self._troubled = False
        self._prepared: Clock | None = None
        self.sheet: Sheet | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if not self._lent:
            self._child.close()

    @property
    def viewed(self) -> Viewed | None:
        """What questions are about; None before the first."""
        return self._viewed

    @property
    def plan(self) -> Plan | None:
        """What is done with the file; None before the first question."""
        return self._course.plan

    def prepare(self, watch: Watcher | None = None) -> None:
        """Decodes and encodes now what the first question would have; its account will hold it.

        In another thread than the one that asks, if one follows the other. Raises what `ask` would.
        """
        if self._viewed is not None:
            return
        clock = Clock(watch or self._watch)
        model, about = self._begin(clock)
        with memory.sufficient(_TOO_SMALL):
            self._viewed = self._view(model, about, clock)
        clock.pause()
        self._prepared = clock

    def ask(
        self,
        question: str,
        *,
        history: Sequence[Turn] = (),
        stop: Callable[[], bool] = never,
        watch: Watcher | None = None,
    ) -> Answer:
        """Answers, with what was said before (`history`) kept as text.

        stop: asked between two tokens; with True the answer ends there. watch: for this question,
        instead of the session's. Raises a TokenReduceError for whatever the caller can mend; the
        session can be asked again after it.
        """
        while True:  # twice at most
            try:
                return self._asked(question, history, stop, watch)
            except CapacityError as error:
                # Weights for which it does not suffice are no matter of the video.
                if not (self._course.opened_and_loaded and memory.ran_out(error)):
                    raise
                # Whoever lends the decoder steps down in their own way.
                less = None if self._lent else self._course.less()
                if less is None:
                    raise CapacityError(self._course.advice()) from error.__cause__
            # Not in the handler: there the failed attempt's tensors are still held.
            self._forget()
            self._course.take(less)

    @property
    def over(self) -> Overrides:
        """The settings that are followed now: as given, or made to fit."""
        return self._course.wanted.over

    @property
    def fitted(self) -> Fitted:
        """What was made to fit when the file was opened."""
        return self._course.fitted

    def planned(self, over: Overrides) -> Plan:
        """What other settings would make of the file. Raises SettingError for what cannot be;
        ValueError before the first question."""
        return self._course.planned(over)

    def _forget(self) -> None:
        self._viewed = self._prepared = None
        self._stem = Stem() if self._many else None

    def _asked(
        self,
        question: str,
        history: Sequence[Turn],
        stop: Callable[[], bool],
        watch: Watcher | None,
    ) -> Answer:
        asking, seen = check_question(question), watch or self._watch
        clock, self._prepared = self._prepared, None
        paid = self._viewed is not None and clock is None
        if clock is None:
            clock = Clock(seen)
            model, about = self._begin(clock)
        else:
            clock.resume(seen)
            model, about = self._course.loaded(clock), self._course.open(clock)
        if self._viewed is None:  # then it can be refused before anything is decoded
            text = foreseen(model, asking, about.plan, about.subject)
            check_context(about.plan, model.spec, text, about.plan.raw)
        _warn_of_toy_world(model, asking, clock)
        with memory.sufficient(_TOO_SMALL):
            viewed = self._viewed = self._viewed or self._view(model, about, clock)
            # A toy that was taught single questions would only be confused by a conversation.
            known = () if model.spec.toy_world else history
            beside = words(model, viewed, about.plan, about.said, known, clock)
            with in_turn(self._alone(model), clock):
                answer, self._stem = asked(
                    model,
                    viewed,
                    asking,
                    about.plan,
                    clock,
                    beside=beside,
                    stem=self._stem,
                    stop=stop,
                    paid=paid,
                )
        answer = replace(answer, fitted=self._course.fitted)
        if self._finished is not None:
            self._finished(answer, model)
        return answer

    def change(self, *, preset: str | Preset | None = None, over: Overrides | None = None) -> None:
        """Another preset or other settings from the next question on. The model stays; the video
        is decoded again unless the cache has what is wanted. Raises SettingError, and leaves all
        as it was, for what cannot be."""
        self._course.change(preset, over)
        self._forget()

    def _begin(self, clock: Clock) -> tuple[VideoModel, Opened]:
        about = self._course.open(clock)
        model = self._course.loaded(clock)
        if self._turn is None:  # else it would fall into another's answer: see `batch.desk`
            memory.reset_device_peak(model.device)
        clock.question_begins()
        return model, about

    def _alone(self, model: VideoModel) -> Lock | None:
        return alone(self._turn, model.device, limited=self._course.limited)

    def _view(self, model: VideoModel, about: Opened, clock: Clock) -> Viewed:
        """From the cache, or decoded and kept there."""
        shelf, plan = about.shelf, about.plan
        if shelf and about.found and isinstance(about.subject, Footage):
            found = shelf.load(about.found, plan, model, about.subject)
            if found is not None:
                tell(about.found.watched, plan, clock)
                return found
        if self._keep_sheet and isinstance(about.subject, Footage):
            probe = about.subject.probe
            self.sheet = Sheet(probe.width / max(1, probe.height))
        turns = self._turn, self._alone(model)
        viewed = see(self._child, model, about.subject, plan, clock, self.sheet, *turns)
        if shelf is not None:
            shelf.save(viewed, plan)
            if shelf.cache.trouble and not self._troubled:
                self._troubled = True
                clock.warn(shelf.cache.trouble)
        return viewed


def _warn_of_toy_world(model: VideoModel, question: str, clock: Clock) -> None:
    if unknown := model.unknown_words(question):
        clock.warn(
            f"this model knows only its toy world, and was never taught {', '.join(unknown)}: "
            "its answer means nothing"
        )
