"""The options of `tokenreduce batch` alone: what is asked, where it goes, what a failure means."""

from __future__ import annotations

from typing import Annotated

import typer

from .options_seen import option

_ASKED = "What is asked"
_KEPT = "What is kept"
_FAILED = "When something fails"
_WORKERS = "Who works"

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH... QUESTION",
        help="Videos, and folders of videos, then the question in quotes, unless -q or --questions "
        "gives it.",
    ),
]
Output = Annotated[
    str | None,
    option(
        "--output",
        "-o",
        panel=_KEPT,
        metavar="FILE",
        help="The JSONL to write, one row a line; FILE.ledger beside it is what is resumed from. "
        "Needed.",
    ),
]
Questions = Annotated[
    list[str] | None,
    typer.Option(
        "--question",
        "-q",
        metavar="TEXT",
        rich_help_panel=_ASKED,
        help="A question, instead of the last argument; several times to ask several of each "
        "file, which is read once. Default: the last argument.",
    ),
]
QuestionsFile = Annotated[
    str | None,
    option(
        "--questions",
        panel=_ASKED,
        metavar="FILE",
        help="Questions from a .csv, .jsonl or .json with the columns file, question and id, or "
        "a .txt, one a line; - for standard input. Default: none.",
    ),
]
NamesFrom = Annotated[
    str | None,
    option(
        "--from0",
        panel=_ASKED,
        metavar="FILE",
        help="Names of files from FILE or, with -, standard input, each ended by a zero byte as "
        "find -print0 does. Default: none.",
    ),
]
Patterns = Annotated[
    list[str] | None,
    typer.Option(
        "--pattern",
        metavar="GLOB",
        rich_help_panel=_ASKED,
        help="Of folders, the files with such a name, such as '*.mp4'; several times for "
        "several. Default: what looks like a video.",
    ),
]
Shard = Annotated[
    str | None,
    option(
        "--shard",
        panel=_WORKERS,
        metavar="I/N",
        help="Only part I of N of the files, the same part on every machine. Default: all.",
    ),
]
New = Annotated[
    bool,
    typer.Option(
        "--new",
        metavar="",
        rich_help_panel=_KEPT,
        help="Move an output that is there aside, and begin anew. Default: go on with it.",
    ),
]
Mix = Annotated[
    bool,
    typer.Option(
        "--mix",
        metavar="",
        rich_help_panel=_KEPT,
        help="Add rows of other settings to an output. Default: refused.",
    ),
]
Retries = Annotated[
    str | None,
    option(
        "--retries",
        panel=_FAILED,
        metavar="N",
        help="Further attempts at a row that failed by anything but its input. Default: 0.",
    ),
]
Timeout = Annotated[
    str | None,
    option(
        "--timeout",
        panel=_FAILED,
        metavar="SECONDS",
        help="Longest time for one file with all its questions; 0 is no limit. Default: 3600.",
    ),
]
MaxFailures = Annotated[
    str | None,
    option(
        "--max-failures",
        panel=_FAILED,
        metavar="N",
        help="Stop once so many rows have failed. Default: never.",
    ),
]
FailFast = Annotated[
    bool,
    typer.Option(
        "--fail-fast",
        metavar="",
        rich_help_panel=_FAILED,
        help="Stop at the first row that fails. Default: go on.",
    ),
]
Workers = Annotated[
    str | None,
    option(
        "--workers",
        panel=_WORKERS,
        metavar="N",
        help="Processes that each load the model, 1 to 64, or auto: one for each GPU; "
        "on a CPU up to 4, as cores and memory allow. Default: auto.",
    ),
]
Cluster = Annotated[
    str | None,
    option(
        "--cluster",
        panel=_WORKERS,
        metavar="ADDRESS",
        help="Work on the GPUs of a Ray cluster, one worker each: auto is the one this machine "
        "belongs to, HOST:PORT a certain one, local one that is started here for this run. "
        "Default: this machine alone, without Ray.",
    ),
]
