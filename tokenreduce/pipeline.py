"""From a file, or several pictures, and a question to an answer and its cost: the whole road.

Knows what happens when, and nothing about how: decoding, encoding, reducing and generating live
in their own places. Tells a watcher what goes on and never prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tokenreduce.budget import NewlineKeep
from tokenreduce.cache.store import Cache
from tokenreduce.events import Watcher, ignore
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.moments import Moment
from tokenreduce.occupant import Placing
from tokenreduce.opening import Wanted
from tokenreduce.plan import Overrides, check_question
from tokenreduce.preset import Preset
from tokenreduce.replying import reply
from tokenreduce.result import Answer
from tokenreduce.room import Allowed
from tokenreduce.session import Session
from tokenreduce.subject import FilePath
from tokenreduce.video.types import DecoderName, Limits, Seek

__all__ = ["answer", "reply"]


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
    fps: float | None = None,
    max_frames: int | None = None,
    start: Moment | str | float | None = None,
    end: Moment | str | float | None = None,
    skip_duplicates: str | float | None = None,
    subtitles: FilePath | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    offline: bool = False,
    device_map: str = "none",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    vram: str | float | None = None,
    fit: bool = False,
    limits: Limits | None = None,
    cache: Cache | None = None,
    watch: Watcher = ignore,
) -> Answer:
    """Answers `question` about the video or picture at `path`, or about several pictures, with
    exactly the budgeted visual tokens.

    preset         a name (`tokenreduce presets`), the path of a TOML file, or a Preset
    model          an alias (`tokenreduce models`), a hub id, a local folder, or a loaded
                   VideoModel, to which revision, device, dtype, quantize, offline and device_map
                   no longer apply
    offline        nothing is downloaded: a model that is not on this machine is an error
    device_map     "auto" spreads a model's layers over all GPUs and on into the CPU's memory
    method         another than the preset's, by name (`tokenreduce methods`)
    budget         visual tokens entering the LLM, newlines included; exact, or all there are
    keep           share of the raw visual tokens kept, instead of a budget
    mean_budget    instead of both: visual tokens a layer of the LLM works on, on average; at most
                   that, as near as whole tokens allow
    frames         how many to sample over the video; like all of fps to subtitles, seek, decoder
                   and time_text without effect on pictures
    fps            frames a second to sample instead, at most max_frames of them
    start, end     of the range that is looked at: seconds, or text such as "10:00" or "25%"
    skip_duplicates  "auto", "off", or the levels of 255 below which a frame repeats the last one,
                   and is not encoded
    subtitles      the path of a subtitle file, or "embedded": the video's own text track
    vram           memory the device may have: GiB, text such as "8GB", or "auto" for what is free
                   on it; what would not fit is refused before anything is decoded
    fit            budget and frames are lowered where that is needed to fit; the answer's `fitted`
                   says so
    cache          of visual tokens on disk; None keeps nothing
    temperature    0 is greedy
    watch          called with each event as it happens

    Raises a TokenReduceError for whatever the caller can mend: InputError for the video or the
    question, SettingError for an option, ModelError for the model, CapacityError for the device.
    """
    over = Overrides(
        budget=budget,
        keep=keep,
        mean_budget=mean_budget,
        method=method,
        frames=frames,
        seek=seek,
        decoder=decoder,
        newlines=newlines,
        time_text=time_text,
        fps=fps,
        max_frames=max_frames,
        start=start,
        end=end,
        skip_duplicates=skip_duplicates,
    )
    sampling = Sampling(max_new_tokens, temperature, seed)
    asked = check_question(question)
    with Session(
        Wanted(path, preset, over, sampling, subtitles),
        model=model,
        placing=Placing(revision, device, dtype, quantize, offline, device_map),
        limits=limits,
        cache=cache,
        allowed=Allowed.of(vram, fit=fit),
        watch=watch,
    ) as session:
        return session.ask(asked)
