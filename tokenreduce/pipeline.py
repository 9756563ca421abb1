"""From a file, or several pictures, and a question to an answer and its cost: the whole road.

Knows what happens when, and nothing about how: decoding, encoding, reducing and generating live
in their own places. Tells a watcher what goes on and never prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tokenreduce import memory
from tokenreduce.account import account
from tokenreduce.budget import NewlineKeep
from tokenreduce.clock import Clock
from tokenreduce.events import Watcher, ignore
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.chat import time_text as time_sentence
from tokenreduce.models.load import check, load, read_spec
from tokenreduce.plan import Overrides, Plan, check_context, check_question, settle
from tokenreduce.preset import Preset, load_preset
from tokenreduce.result import Answer
from tokenreduce.stills import available
from tokenreduce.subject import FilePath, Footage, Subject, probed, read_stills, told_apart
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import DecoderName, Limits, Seek
from tokenreduce.viewing import Viewed, look, merge

_TOO_SMALL = (
    "the device's memory does not suffice for this: set a smaller --budget, fewer --frames, or "
    "--quantize nf4"
)


def answer(
    path: FilePath | Sequence[FilePath],
    question: str,
    *,
    preset: str | Preset = "balanced",
    model: str | VideoModel = "llava-video-7b",
    revision: str | None = None,
    method: str | None = None,
    budget: int | None = None,
    keep: float | Fraction | None = None,
    mean_budget: int | None = None,
    frames: int | None = None,
    seek: Seek | None = None,
    decoder: DecoderName | None = None,
    newlines: NewlineKeep | None = None,
    time_text: bool | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    limits: Limits | None = None,
    watch: Watcher = ignore,
) -> Answer:
    """Answers `question` about the video or picture at `path`, or about several pictures, with
    exactly the budgeted visual tokens.

    preset         a name (`tokenreduce presets`), the path of a TOML file, or a Preset
    model          an alias (`tokenreduce models`), a hub id, a local folder, or a loaded
                   VideoModel, to which revision, device, dtype and quantize no longer apply
    method         another than the preset's, by name (`tokenreduce methods`)
    budget         visual tokens entering the LLM, newlines included; exact, or all there are
    keep           share of the raw visual tokens kept, instead of a budget
    mean_budget    instead of both: visual tokens a layer of the LLM works on, on average; at most
                   that, as near as whole tokens allow
    frames         how many to sample over the whole video; like seek, decoder and time_text
                   without effect on pictures
    temperature    0 is greedy
    watch          called with each event as it happens

    Raises a TokenReduceError for whatever the caller can mend: InputError for the video or the
    question, SettingError for an option, ModelError for the model, CapacityError for the device.
    """
    clock = Clock(watch)
    asked, files = check_question(question), told_apart(path)
    chosen = preset if isinstance(preset, Preset) else load_preset(preset)
    spec = read_spec(model, revision=revision) if isinstance(model, str) else model.spec
    over = Overrides(budget, keep, mean_budget, method, frames, seek, decoder, newlines, time_text)
    sampling = Sampling(max_new_tokens, temperature, seed)
    stills = read_stills(files, spec, clock) if files.pictures else None
    plan = settle(chosen, spec, over, sampling, stills.layouts(spec, 0) if stills else ())
    if stills:
        warn_of_no_use(over, clock)
    if isinstance(model, str):
        check(model, revision)
    with Decoder(limits or Limits()) as child:
        subject = stills or probed(files, child, clock)
        raw = available(subject.layouts(spec, plan.frames))
        check_context(plan, spec, 0, raw)  # before any weight is loaded
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
        memory.reset_device_peak(loaded.device)
        clock.question_begins()
        check_context(plan, spec, _text_before(loaded, asked, plan, subject), raw)
        _warn_of_toy_world(loaded, asked, clock)
        with memory.sufficient(_TOO_SMALL):
            viewed = merge(loaded, look(child, loaded, subject, (plan,), clock), plan, clock)
    with memory.sufficient(_TOO_SMALL):
        return reply(loaded, viewed, asked, plan, clock)


def reply(model: VideoModel, viewed: Viewed, question: str, plan: Plan, clock: Clock) -> Answer:
    """Asks the LLM about what was viewed, and accounts for what the whole run took.

    Raises SettingError if the prompt exceeds the model's context window.
    """
    sentence = None
    if plan.time_text:
        sentence = time_sentence(viewed.subject.facts.seconds, viewed.frame_seconds)
    clock.begin("prefill")
    prompt = model.prompt(question, sentence, viewed.visual, viewed.grid)
    # The headers a video was judged by before it was decoded may have been wrong.
    check_context(plan, model.spec, prompt.text_count, viewed.raw)

    def on_prefill(seconds: float) -> None:
        clock.spend("prefill", seconds)
        clock.first_token()
        clock.end("prefill")
        clock.begin("answer", plan.sampling.max_new_tokens)

    generation = model.generate(prompt, viewed.prunes, plan.sampling, clock.text, on_prefill)
    clock.spend("answer", generation.seconds)
    clock.end("answer")
    return account(model, viewed, question, plan, clock, generation, prompt.text_count)


def _warn_of_toy_world(model: VideoModel, question: str, clock: Clock) -> None:
    if unknown := model.unknown_words(question):
        clock.warn(
            f"this model knows only its toy world, and was never taught {', '.join(unknown)}: "
            "its answer means nothing"
        )


def warn_of_no_use(over: Overrides, clock: Clock) -> None:
    """Of what was set for pictures and only counts for videos."""
    if over.of_videos:
        named = ", ".join("--" + name.replace("_", "-") for name in over.of_videos)
        clock.warn(f"{named}: only for videos, of no effect on pictures")


def _text_before(model: VideoModel, question: str, plan: Plan, subject: Subject) -> int:
    """Text tokens of the prompt, counted before decoding with evenly spaced stand-in times."""
    if not plan.time_text or not isinstance(subject, Footage):
        return model.text_tokens(question, None)
    seconds, frames = subject.probe.seconds, subject.expected(plan.frames)
    times = [i * seconds / frames for i in range(frames)]
    return model.text_tokens(question, time_sentence(seconds, times))
