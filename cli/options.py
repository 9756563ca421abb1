"""The options about the model, the answer and the output; those of what is seen are beside it.

Read as `options_seen` reads its own.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .options_seen import option

_MODEL = "The model"
_ANSWER = "The answer"
_OUTPUT = "Output"

Model = Annotated[
    str | None,
    option(
        "--model",
        "-m",
        panel=_MODEL,
        metavar="NAME",
        help="An alias (see: tokenreduce models), a hub id or a folder. Default: llava-video-7b.",
    ),
]
Revision = Annotated[
    str | None,
    option(
        "--revision",
        panel=_MODEL,
        metavar="REV",
        help="Branch, tag or commit of a hub model. Default: its main branch.",
    ),
]
Device = Annotated[
    str | None,
    option(
        "--device",
        panel=_MODEL,
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps. Default: auto, the best there is.",
    ),
]
Dtype = Annotated[
    str | None,
    option(
        "--dtype",
        panel=_MODEL,
        metavar="NAME",
        help="auto, float32, bfloat16 or float16. Default: auto, by device.",
    ),
]
Quantize = Annotated[
    str | None,
    option(
        "--quantize",
        panel=_MODEL,
        metavar="HOW",
        help="Weights of the language model: auto, nf4 (4 bit), int8 or none. Default: auto.",
    ),
]
DeviceMap = Annotated[
    str | None,
    option(
        "--device-map",
        panel=_MODEL,
        metavar="HOW",
        help="auto spreads the layers over all GPUs, and what they have no room for into the CPU's "
        "memory. Default: none, all on one device.",
    ),
]
Offline = Annotated[
    bool | None,
    typer.Option(
        "--offline/--no-offline",
        metavar="",
        rich_help_panel=_MODEL,
        help="Use what is on this machine and download nothing (see: tokenreduce models pull). "
        "Default: --no-offline.",
    ),
]
MaxNewTokens = Annotated[
    str | None,
    option(
        "--max-new-tokens",
        panel=_ANSWER,
        metavar="N",
        help="Tokens the answer may have at most. Default: 256.",
    ),
]
Temperature = Annotated[
    str | None,
    option(
        "--temperature",
        panel=_ANSWER,
        metavar="T",
        help="0 takes the likeliest token each time, up to 10 draws. Default: 0.",
    ),
]
Seed = Annotated[
    str | None,
    option(
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
    option(
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
    option(
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
JsonObject = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        rich_help_panel=_OUTPUT,
        help="One JSON object on stdout, nothing else there. Default: lines for people.",
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
