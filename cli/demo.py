"""`tokenreduce demo`: clips of the toy world, and accuracy measured through the real pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenreduce.errors import InputError

from . import render
from .progress import counting

demo = typer.Typer(
    name="demo",
    no_args_is_help=True,
    help="Make clips of the toy world the demo model knows, and score answers about them.",
)


@demo.command("make")
def make_clips(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Made if it does not exist.")],
    clips: Annotated[
        str, typer.Option("--clips", metavar="N", help="How many, 1 to 10,000. Default: 20.")
    ] = "20",
    seed: Annotated[
        str, typer.Option("--seed", metavar="N", help="Same seed, same clips. Default: 7.")
    ] = "7",
) -> None:
    """Write H.264 clips with their questions and true answers into DIR."""
    from .kinds import Whole
    from .settings import read_flag

    count = read_flag("--clips", Whole("a whole number of clips", 1, 10_000), clips)
    start = read_flag("--seed", Whole("a whole number", 0, 2**63 - 1), seed)

    from tokenreduce.demo.clips import make

    try:
        with counting("clips") as on_progress:
            make(Path(folder), count, start, on_progress=on_progress)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}; give another folder"
        ) from error
    render.line(f"{count} clip{'' if count == 1 else 's'} in {folder}")


@demo.command("score")
def score_clips(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="From tokenreduce demo make.")],
    preset: Annotated[
        str, typer.Option("--preset", "-p", metavar="NAME", help="Default: balanced.")
    ] = "balanced",
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="N",
            help="Visual tokens that enter the LLM. Default: the preset's share.",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", metavar="", help="One JSON object on stdout. Default: a table of shares."
        ),
    ] = False,
) -> None:
    """Ask the demo model every question in DIR and print the share answered right."""
    from .kinds import Whole
    from .settings import read_flag

    tokens = Whole("a whole number of visual tokens", 1)
    count = None if budget is None else read_flag("--budget", tokens, budget)

    from tokenreduce.demo.score import score

    with counting("clips") as on_progress:
        result = score(folder, preset, count, on_progress)
    if as_json:
        render.json_object(result.to_json())
        return
    render.line(
        f"{result.model}, world {result.world}, {result.preset}: {result.method}, "
        f"{result.frames} frames, {result.tokens:.0f} visual tokens"
    )
    shares = {"all": result.share(), "answerable": result.answerable, "needles": result.needles}
    rows = [("questions", "right", "+-", "asked")]
    for name, share in (shares | result.by_kind()).items():
        rows.append(
            (name, f"{share.correct:.3f}", f"{share.standard_error:.3f}", f"{share.questions}")
        )
    render.columns(rows)
