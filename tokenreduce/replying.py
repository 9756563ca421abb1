"""One question about what was viewed: the prompt's words, prefill, generation, and the account.

Knows nothing about where the visual tokens come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenreduce.account import account
from tokenreduce.captions import Line
from tokenreduce.clock import Clock
from tokenreduce.models.base import Stem, VideoModel, never
from tokenreduce.models.chat import time_text as time_sentence
from tokenreduce.plan import Plan
from tokenreduce.result import Answer, TextTokens
from tokenreduce.subject import Footage, Subject
from tokenreduce.subtitles import told
from tokenreduce.viewing import Viewed
from tokenreduce.window import check_context

HISTORY_TOKENS = 1024
"""Of earlier questions and answers that are told again; the oldest are left out first."""

TIMES = 2
"""Times that are told at most, in multiples of the model's native frame count: of longer sentences
than it was trained on the demo model loses a tenth of its answers (docs/long-videos.md)."""

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Words:
    """What the prompt says beside the question.

    time     the time instruction, or None        subtitles  lines that were said, or nothing
    history  earlier questions and answers, the last one last
    """

    time: str | None = None
    subtitles: str = ""
    history: str = ""

    def before(self, question: str) -> str:
        """The question and what comes right before it."""
        return "\n".join(part for part in (self.subtitles, self.history, question) if part)

    def counted(self, count: Callable[[str], int]) -> TextTokens:
        """How many tokens each part takes, about: pieces may join where they meet."""
        parts = (self.time or "", self.subtitles, self.history)
        return TextTokens(*(count(part) if part else 0 for part in parts))


def counter(model: VideoModel) -> Callable[[str], int]:
    """Counts the tokens of a text as part of a prompt."""
    empty = model.text_tokens("", None)
    return lambda text: model.text_tokens(text, None) - empty


def timed(
    model: VideoModel, plan: Plan, duration: float, times: Sequence[float], sampled: int
) -> str | None:
    """The time instruction about frames at `times` of a video that lasts `duration` seconds."""
    if not plan.time_text or not times:
        return None
    ranged = plan.start_seconds > 0 or plan.stop_seconds is not None
    part = (plan.start_seconds, plan.stop_seconds) if ranged else None
    most = TIMES * model.spec.native_frames
    return time_sentence(
        duration, times, counter(model), most_times=most, sampled=sampled, part=part
    )


def foreseen(model: VideoModel, question: str, plan: Plan, subject: Subject) -> int:
    """Text tokens of the prompt, as far as they can be told before anything is decoded: evenly
    spaced stand-ins for the frames' times, no subtitles and no history."""
    sentence = None
    if isinstance(subject, Footage):
        seconds = subject.probe.seconds
        frames = max(1, plan.raw // model.spec.layout(1).per_frame)
        times = [i * seconds / frames for i in range(frames)]
        sentence = timed(model, plan, seconds, times, frames)
    return model.text_tokens(question, sentence)


def words(
    model: VideoModel,
    viewed: Viewed,
    plan: Plan,
    said: Sequence[Line] = (),
    history: Sequence[Turn] = (),
    clock: Clock | None = None,
) -> Words:
    """All that the prompt says of what was viewed. clock: warns of subtitle lines left out."""
    watched, count = viewed.watched, counter(model)
    time = None
    if watched is not None:
        facts = viewed.subject.facts
        time = timed(model, plan, facts.seconds, watched.shown(plan), watched.sampled)
    heard = ""
    if said and watched is not None:
        found = told(said, count, start_seconds=plan.start_seconds, stop_seconds=plan.stop_seconds)
        heard = found.text
        if found.left_out and clock is not None:
            clock.warn(f"{found.lines:,} of {found.of:,} subtitle lines fit and were told")
    return Words(time, heard, _remembered(history, count))


def _remembered(history: Sequence[Turn], count: Callable[[str], int]) -> str:
    """The latest turns that fit, as text."""
    told_again = ""
    for question, answer in reversed(history):
        longer = f"Question: {question}\nAnswer: {answer}\n{told_again}"
        if count(longer) > HISTORY_TOKENS:
            break
        told_again = longer
    return f"Earlier in this conversation:\n{told_again}".rstrip() if told_again else ""


def reply(model: VideoModel, viewed: Viewed, question: str, plan: Plan, clock: Clock) -> Answer:
    """The only question about what was viewed, or one for which nothing is kept (see `asked`)."""
    return asked(model, viewed, question, plan, clock)[0]


def asked(
    model: VideoModel,
    viewed: Viewed,
    question: str,
    plan: Plan,
    clock: Clock,
    *,
    beside: Words | None = None,
    stem: Stem | None = None,
    stop: Callable[[], bool] = never,
    paid: bool = False,
) -> tuple[Answer, Stem | None]:
    """Asks the LLM about what was viewed, and accounts for what the whole run took.

    beside: what else the prompt says; by default the time instruction. stem: of earlier questions;
    what comes back is for the next. paid: an earlier question has paid for what was viewed.

    Raises SettingError if the prompt exceeds the model's context window.
    """
    said = words(model, viewed, plan) if beside is None else beside
    clock.begin("prefill")
    prompt = model.prompt(said.before(question), said.time, viewed.visual, viewed.grid)
    # The headers a video was judged by before it was decoded may have been wrong.
    check_context(plan, model.spec, prompt.text_count, viewed.raw)

    short = None if paid else plan.short_of_mean(viewed.visual.count, viewed.prunes)
    if short is not None:
        clock.warn(short)

    def on_prefill(seconds: float) -> None:
        clock.spend("prefill", seconds)
        clock.first_token()
        clock.end("prefill")
        clock.begin("answer", plan.sampling.max_new_tokens)

    generation = model.generate(
        prompt, viewed.prunes, plan.sampling, clock.text, on_prefill, stem=stem, stop=stop
    )
    clock.spend("answer", generation.seconds)
    clock.end("answer")
    parts = said.counted(counter(model))
    done = account(
        model, viewed, question, plan, clock, generation, prompt.text_count, parts, paid=paid
    )
    return done, generation.stem
