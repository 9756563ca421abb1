"""`tokenreduce batch`: many files, many questions; the options, and how they reach the library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import typer

from tokenreduce.errors import InputError, SettingError

from . import options as o
from . import options_batch as b
from . import options_fit as f
from . import options_seen as s
from . import render
from .ask import calm_libraries
from .given import chosen_from
from .interrupts import at_once
from .kinds import Number, Text, Whole

_WORKERS = Whole("auto or a whole number of processes", 1, 64)
_CLUSTER = Text(
    "auto, local or the HOST:PORT of a Ray cluster, such as 10.0.0.1:6379",
    r"auto|local|[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:.%]+\]:\d{1,5}",
)


def batch(
    given: b.Paths = None,
    output: b.Output = None,
    questions: b.Questions = None,
    questions_file: b.QuestionsFile = None,
    names_from: b.NamesFrom = None,
    patterns: b.Patterns = None,
    new: b.New = False,
    mix: b.Mix = False,
    retries: b.Retries = None,
    timeout: b.Timeout = None,
    max_failures: b.MaxFailures = None,
    fail_fast: b.FailFast = False,
    workers: b.Workers = None,
    cluster: b.Cluster = None,
    shard: b.Shard = None,
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
    vram: f.Vram = None,
    fit: f.Fit = None,
    use_cache: o.UseCache = None,
    quiet: o.Quiet = False,
) -> None:
    """Ask about every video of a folder, durably: run it again and it goes on where it stopped.

    Exit codes: 0 all answered, 3 some failed, 4 nothing was left to do, 130 interrupted (the first
    Ctrl-C finishes the current answers, the second drops them), others as everywhere.
    """
    chosen = chosen_from(locals(), quiet=quiet)
    numbers = _numbers(retries, timeout, 1 if fail_fast else max_failures, workers, cluster)
    if output is None:
        raise SettingError("no output: give the JSONL to write with -o, such as -o answers.jsonl")
    calm_libraries()
    from tokenreduce.batch.sharding import Shard
    from tokenreduce.batch.sources import Source, jobs

    paths, asked = _parted(given or [], questions or [], questions_file)
    part = None if shard is None else Shard.parse(shard)
    source = Source(paths, asked, questions_file, names_from, tuple(patterns or ()), part)
    listing = jobs(source)
    if not quiet:
        for note in listing.notes:
            render.warning(note)
    with at_once():
        from .batch_run import Run

    raise typer.Exit(Run(output, chosen, numbers, quiet=quiet).over(listing, new=new, mix=mix))


def retry(
    output: str,
    *,
    retries: str | None,
    timeout: str | None,
    workers: str | None,
    cluster: str | None,
) -> None:
    """Asks the failed rows of an output again, each with the settings it was asked with."""
    numbers = _numbers(retries, timeout, None, workers, cluster)
    calm_libraries()
    with at_once():
        from .batch_retry import retried

    raise typer.Exit(retried(output, numbers))


def _parted(
    given: list[str], questions: list[str], questions_file: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths and questions: the last argument is the question unless questions come otherwise."""
    if questions or questions_file is not None or not given:
        return tuple(given), tuple(questions)
    *paths, question = given
    _no_file(question)
    return tuple(paths), (question,)


def _no_file(question: str) -> None:
    if os.path.lexists(question):
        raise InputError(
            f"{question!r} is a file or folder, where the question should be: give it last, in "
            "quotes"
        )


def _numbers(
    retries: object, timeout: object, max_failures: object, workers: object, cluster: object
) -> Mapping[str, Any]:
    """What was given of them, checked; None where nothing was."""
    from .settings import read_flag

    read: dict[str, Any] = {}
    for flag, kind, value in (
        ("--retries", Whole("a whole number", 0, 1000), retries),
        ("--timeout", Number(0, 10_000_000), timeout),
        ("--max-failures", Whole("a whole number of rows", 1), max_failures),
        ("--workers", _WORKERS, None if workers == "auto" else workers),
        ("--cluster", _CLUSTER, cluster),
    ):
        name = flag.strip("-").replace("-", "_")
        read[name] = None if value is None else read_flag(flag, kind, str(value))
    return read
