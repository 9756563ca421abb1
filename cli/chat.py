"""`tokenreduce chat`: one video or pictures, many questions; the options, and who does the rest."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tokenreduce.video.inputs import checked, shown

from . import options as o
from . import options_fit as f
from . import options_seen as s
from . import render
from .ask import calm_libraries
from .given import chosen_from
from .interrupts import at_once
from .lines import lines
from .talk import Talk


def chat(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="A local video, or one or more pictures (JPEG, PNG, WebP, BMP).",
            show_default=False,
        ),
    ],
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
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            metavar="",
            rich_help_panel="Output",
            help="One JSON object a line on stdout for each answer. Default: answers as text.",
        ),
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Ask many questions about one video FILE, or pictures: decoded and encoded once.

    Questions are typed, or piped in one a line. What was said before goes along as text. Lines that
    begin with / are commands; /help lists them. Ctrl-C stops an answer, Ctrl-D leaves.
    """
    chosen = chosen_from(locals(), quiet=quiet)
    calm_libraries()
    for name in files:
        checked(name)  # before anything is typed
    values: dict[str, Any] = {name: one.value for name, one in chosen.items()}
    source = lines()
    # Here and not above: torch takes seconds to import, and --help must not wait for it.
    with at_once():
        from .sessions import open_session

    with open_session(files, values, many=True) as session:
        if source.typed and not quiet:
            about = ", ".join(shown(name) for name in files)
            render.show(f"{about}: ask, or /help; Ctrl-D leaves")
        code = Talk(session, files, quiet=quiet, as_json=as_json).run(source)
    if code:
        raise typer.Exit(code)
