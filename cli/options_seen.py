"""The options that say what is seen of which files, each with its unit and default; no others.

Numbers are read as text: `settings` checks a flag, a variable and a file's value alike, and says in
one line what is allowed.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

_SEEN = "What is seen"


def option(*names: str, panel: str, metavar: str, help: str) -> Any:
    """An option of text in a panel of the help page."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


Given = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE... QUESTION",
        help="A local video, or one or more pictures (JPEG, PNG, WebP, BMP), then the question in "
        "quotes, at most 20,000 characters. - for the question, or a single FILE without one, "
        "reads standard input.",
    ),
]
Preset = Annotated[
    str | None,
    option(
        "--preset",
        "-p",
        panel=_SEEN,
        metavar="NAME",
        help="A preset's name (see: tokenreduce presets) or a .toml file. Default: balanced.",
    ),
]
Budget = Annotated[
    str | None,
    option(
        "--budget",
        panel=_SEEN,
        metavar="N",
        help="Visual tokens that enter the LLM, newlines included; exact, or all there are "
        "if fewer. Default: the preset's share.",
    ),
]
Keep = Annotated[
    str | None,
    option(
        "--keep",
        panel=_SEEN,
        metavar="SHARE",
        help="Share of the raw visual tokens kept, above 0 to 1, such as 0.25 or 1/4; instead "
        "of --budget. Default: the preset's.",
    ),
]
MeanBudget = Annotated[
    str | None,
    option(
        "--mean-budget",
        panel=_SEEN,
        metavar="N",
        help="Visual tokens a layer of the LLM works on, on average over its layers; instead of "
        "--budget. Default: not set.",
    ),
]
Method = Annotated[
    str | None,
    option(
        "--method",
        panel=_SEEN,
        metavar="NAME",
        help="Reduce by this method (see: tokenreduce methods) on the preset's frames. "
        "Default: the preset's own.",
    ),
]
Frames = Annotated[
    str | None,
    option(
        "--frames",
        panel=_SEEN,
        metavar="N",
        help="Frames sampled over the whole video, 1 to 100,000. Default: the preset's "
        "multiple of the model's native count.",
    ),
]
Fps = Annotated[
    str | None,
    option(
        "--fps",
        panel=_SEEN,
        metavar="F",
        help="Frames sampled a second instead of --frames, above 0 to 1,000. Default: not set.",
    ),
]
MaxFrames = Annotated[
    str | None,
    option(
        "--max-frames",
        panel=_SEEN,
        metavar="N",
        help="With --fps: at most so many, spread evenly where there would be more. "
        "Default: no limit.",
    ),
]
Start = Annotated[
    str | None,
    option(
        "--start",
        panel=_SEEN,
        metavar="TIME",
        help="Look only from here on: 90, 10:00, 1:02:03.5, 1h02m or 25%. Default: the beginning.",
    ),
]
End = Annotated[
    str | None,
    option(
        "--end",
        panel=_SEEN,
        metavar="TIME",
        help="Look only up to here. Default: the end.",
    ),
]
SkipDuplicates = Annotated[
    str | None,
    option(
        "--skip-duplicates",
        panel=_SEEN,
        metavar="HOW",
        help="auto: a frame that shows what the last one showed is not encoded; off; or the "
        "levels, above 0 to 255, below which frames are alike. Default: the preset's.",
    ),
]
Subtitles = Annotated[
    str | None,
    option(
        "--subtitles",
        panel=_SEEN,
        metavar="FILE",
        help="What is said, from a .srt, .vtt, .ass or .ssa file, or embedded: from the video's "
        "own text track. Default: none.",
    ),
]
Seek = Annotated[
    str | None,
    option(
        "--seek",
        panel=_SEEN,
        metavar="HOW",
        help="exact, or keyframe: the key frame at or before each time, far cheaper. "
        "Default: the preset's.",
    ),
]
Decoder = Annotated[
    str | None,
    option(
        "--decoder",
        panel=_SEEN,
        metavar="NAME",
        help="auto (pyav), pyav or decord. Default: the preset's.",
    ),
]
Newlines = Annotated[
    str | None,
    option(
        "--newlines",
        panel=_SEEN,
        metavar="RULE",
        help="Newline tokens that survive merging: 'share', as of the frame's tokens; 'frame', "
        "one for each; or 'none'. Default: the preset's.",
    ),
]
TimeText = Annotated[
    bool | None,
    typer.Option(
        "--time-text/--no-time-text",
        metavar="",
        rich_help_panel=_SEEN,
        help="Tell the model the frames' times, in seconds. Default: as it was trained.",
    ),
]
