"""The options of `tokenreduce ask`, each with its unit and its default; knows nothing they do.

Numbers are read as text: `settings` checks a flag, a variable and a file's value alike, and says in
one line what is allowed.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

_SEEN = "What is seen"
_MODEL = "The model"
_ANSWER = "The answer"
_OUTPUT = "Output"


def _option(*names: str, panel: str, metavar: str, help: str) -> Any:
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
    _option(
        "--preset",
        "-p",
        panel=_SEEN,
        metavar="NAME",
        help="A preset's name (see: tokenreduce presets) or a .toml file. Default: balanced.",
    ),
]
Budget = Annotated[
    str | None,
    _option(
        "--budget",
        panel=_SEEN,
        metavar="N",
        help="Visual tokens that enter the LLM, newlines included; exact, or all there are "
        "if fewer. Default: the preset's share.",
    ),
]
Keep = Annotated[
    str | None,
    _option(
        "--keep",
        panel=_SEEN,
        metavar="SHARE",
        help="Share of the raw visual tokens kept, above 0 to 1, such as 0.25 or 1/4; instead "
        "of --budget. Default: the preset's.",
    ),
]
MeanBudget = Annotated[
    str | None,
    _option(
        "--mean-budget",
        panel=_SEEN,
        metavar="N",
        help="Visual tokens a layer of the LLM works on, on average over its layers; instead of "
        "--budget. Default: not set.",
    ),
]
Method = Annotated[
    str | None,
    _option(
        "--method",
        panel=_SEEN,
        metavar="NAME",
        help="Reduce by this method (see: tokenreduce methods) on the preset's frames. "
        "Default: the preset's own.",
    ),
]
Frames = Annotated[
    str | None,
    _option(
        "--frames",
        panel=_SEEN,
        metavar="N",
        help="Frames sampled over the whole video, 1 to 100,000. Default: the preset's "
        "multiple of the model's native count.",
    ),
]
Fps = Annotated[
    str | None,
    _option(
        "--fps",
        panel=_SEEN,
        metavar="F",
        help="Frames sampled a second instead of --frames, above 0 to 1,000. Default: not set.",
    ),
]
MaxFrames = Annotated[
    str | None,
    _option(
        "--max-frames",
        panel=_SEEN,
        metavar="N",
        help="With --fps: at most so many, spread evenly where there would be more. "
        "Default: no limit.",
    ),
]
Start = Annotated[
    str | None,
    _option(
        "--start",
        panel=_SEEN,
        metavar="TIME",
        help="Look only from here on: 90, 10:00, 1:02:03.5, 1h02m or 25%. Default: the beginning.",
    ),
]
End = Annotated[
    str | None,
    _option(
        "--end",
        panel=_SEEN,
        metavar="TIME",
        help="Look only up to here. Default: the end.",
    ),
]
SkipDuplicates = Annotated[
    str | None,
    _option(
        "--skip-duplicates",
        panel=_SEEN,
        metavar="HOW",
        help="auto: a frame that shows what the last one showed is not encoded; off; or the "
        "levels, above 0 to 255, below which frames are alike. Default: the preset's.",
    ),
]
Subtitles = Annotated[
    str | None,
    _option(
        "--subtitles",
        panel=_SEEN,
        metavar="FILE",
        help="What is said, from a .srt, .vtt, .ass or .ssa file, or embedded: from the video's "
        "own text track. Default: none.",
    ),
]
Seek = Annotated[
    str | None,
    _option(
        "--seek",
        panel=_SEEN,
        metavar="HOW",
        help="exact, or keyframe: the key frame at or before each time, far cheaper. "
        "Default: the preset's.",
    ),
]
Decoder = Annotated[
    str | None,
    _option(
        "--decoder",
        panel=_SEEN,
        metavar="NAME",
        help="auto (pyav), pyav or decord. Default: the preset's.",
    ),
]
Newlines = Annotated[
    str | None,
    _option(
        "--newlines",
        panel=_SEEN,
        metavar="RULE",
        help="Newline tokens that survive merging: share of each frame's tokens, one a frame, "
        "or none. Default: the preset's.",
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
Model = Annotated[
    str | None,
    _option(
        "--model",
        "-m",
        panel=_MODEL,
        metavar="NAME",
        help="An alias (see: tokenreduce models), a hub id or a folder. Default: llava-video-7b.",
    ),
]
Revision = Annotated[
    str | None,
    _option(
        "--revision",
        panel=_MODEL,
        metavar="REV",
        help="Branch, tag or commit of a hub model. Default: its main branch.",
    ),
]
Device = Annotated[
    str | None,
    _option(
        "--device",
        panel=_MODEL,
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps. Default: auto, the best there is.",
    ),
]
Dtype = Annotated[
    str | None,
    _option(
        "--dtype",
        panel=_MODEL,
        metavar="NAME",
        help="auto, float32, bfloat16 or float16. Default: auto, by device.",
    ),
]
Quantize = Annotated[
    str | None,
    _option(
        "--quantize",
        panel=_MODEL,
        metavar="HOW",
        help="Weights of the language model: auto, nf4 (4 bit), int8 or none. Default: auto.",
    ),
]
MaxNewTokens = Annotated[
    str | None,
    _option(
        "--max-new-tokens",
        panel=_ANSWER,
        metavar="N",
        help="Tokens the answer may have at most. Default: 256.",
    ),
]
Temperature = Annotated[
    str | None,
    _option(
        "--temperature",
        panel=_ANSWER,
        metavar="T",
        help="0 takes the likeliest token each time, up to 10 draws. Default: 0.",
    ),
]
Seed = Annotated[
    str | None,
    _option(
        "--seed",
        panel=_ANSWER,
        metavar="N",
        help="Of everything that is drawn, 0 to 4294967295. Default: 0.",
    ),
]
Questions = Annotated[
    list[str] | None,
    typer.Option(
        "--question",
        "-q",
        metavar="TEXT",
        rich_help_panel=_ANSWER,
        help="A question, instead of the last argument; give it several times to ask several "
        "about one FILE, which is read once. Default: the last argument.",
    ),
]
QuestionsFile = Annotated[
    str | None,
    _option(
        "--questions",
        panel=_ANSWER,
        metavar="FILE",
        help="A text file of questions, one a line, or - for standard input. Default: none.",
    ),
]
UseCache = Annotated[
    bool | None,
    typer.Option(
        "--cache/--no-cache",
        metavar="",
        rich_help_panel=_MODEL,
        help="Keep the video's visual tokens on disk for the next question (see: tokenreduce "
        "cache). Default: --cache.",
    ),
]
ShowFrames = Annotated[
    str | None,
    _option(
        "--show-frames",
        panel=_OUTPUT,
        metavar="FILE",
        help="Write a contact sheet of the frames looked at, with their times, as PNG or JPEG. "
        "Default: none.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        rich_help_panel=_OUTPUT,
        help="One JSON object on stdout, one a line for several questions, nothing else there. "
        "Default: the answer as text.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        metavar="",
        rich_help_panel=_OUTPUT,
        help="Nothing but errors on stderr. Default: progress, warnings and the cost table.",
    ),
]
ShowSettings = Annotated[
    bool,
    typer.Option(
        "--show-settings",
        metavar="",
        rich_help_panel=_OUTPUT,
        help="Print each setting, its value and where it came from, and do nothing else. "
        "Default: off.",
    ),
]
