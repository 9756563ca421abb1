"""`tokenreduce ask`: one question of a video or pictures; the options, and how they reach the
library."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

from . import options as o
from . import options_fit as f
from . import options_seen as s
from . import render
from .given import chosen_from
from .interrupts import at_once
from .question import to_ask
from .watch import Watch

if TYPE_CHECKING:
    from .settings import Chosen


def ask(
    given: s.Given = None,
    preset: s.Preset = None,
    budget: s.Budget = None,
    keep: s.Keep = None,
    mean_budget: s.MeanBudget = None,
    method: s.Method = None,
    frames: s.Frames = None,
    fps: s.Fps = None,
    max_frames: s.MaxFrames = None,
    start: s.Start = None,
    end: s.End = None,
    skip_duplicates: s.SkipDuplicates = None,
    subtitles: s.Subtitles = None,
    seek: s.Seek = None,
    decoder: s.Decoder = None,
    newlines: s.Newlines = None,
    time_text: s.TimeText = None,
    model: o.Model = None,
    revision: o.Revision = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    quantize: o.Quantize = None,
    device_map: o.DeviceMap = None,
    offline: o.Offline = None,
    max_new_tokens: o.MaxNewTokens = None,
    temperature: o.Temperature = None,
    seed: o.Seed = None,
    questions: o.Questions = None,
    questions_file: o.QuestionsFile = None,
    vram: f.Vram = None,
    fit: f.Fit = None,
    use_cache: o.UseCache = None,
    show_frames: o.ShowFrames = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    show_settings: o.ShowSettings = False,
) -> None:
    """Ask a QUESTION about one video FILE, or one or more pictures, and print the answer.

    The answer goes to stdout; progress and what it cost go to stderr.
    """
    chosen = chosen_from(locals(), quiet=quiet)
    if show_settings:
        _show(chosen, as_json=as_json)
        return
    files, asked = to_ask(given, questions or [], questions_file)
    _run(files, asked, chosen, show_frames, as_json=as_json, quiet=quiet)


def _run(
    files: list[str],
    asked: list[str],
    chosen: dict[str, Chosen],
    show_frames: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    calm_libraries()
    # Here and not above: torch takes seconds to import, and --help must not wait for it.
    with at_once():
        from .sessions import open_session

    if len(asked) > 1:  # the last is refused before the first is answered
        from tokenreduce.plan import check_question

        for question in asked:
            check_question(question)
    if show_frames is not None:
        from tokenreduce.sheet import check

        check(show_frames)
    values = {name: one.value for name, one in chosen.items()}
    session = open_session(files, values, keep_sheet=show_frames is not None, many=len(asked) > 1)
    with session:
        for number, question in enumerate(asked):
            if len(asked) > 1 and not as_json:
                if number:
                    render.line()
                render.line(f"> {question}")
            with Watch(quiet=quiet, stream=not as_json) as watch:
                result = session.ask(question, watch=watch)
                watch.finish(result)
            if as_json:
                render.json_object(result.to_json())
            elif not quiet:
                render.cost(result)
            if number == 0 and show_frames is not None:
                if session.sheet is not None:
                    session.sheet.save(show_frames)
                elif not quiet:
                    render.warning("--show-frames: only for videos, of no effect on pictures")


def _show(chosen: dict[str, Chosen], *, as_json: bool) -> None:
    from .effective import effective

    rows = effective(chosen)
    if as_json:
        render.json_object({name: {"value": v, "source": source} for name, v, source in rows})
    else:
        render.columns(rows)


def calm_libraries() -> None:
    """Keeps the libraries' own chatter off stderr; what a user must know comes as an event.

    Also their idle threads off the cores, if it is called before torch is imported: OpenMP's would
    spin between operations on a core that decoding has use for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name in ("transformers", "bitsandbytes", "accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a download is drawn by `progress`
