"""`tokenreduce compare`: several settings on one video or pictures, side by side."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenreduce.errors import InputError

from . import options as o
from . import render
from .ask import calm_libraries
from .cost import quantity
from .question import parted, read_question
from .watch import Watch

if TYPE_CHECKING:
    from tokenreduce.compare import Comparison

_HEAD = ("setting", "same", "in", "mean", "prefill", "s", "MiB", "answer")


def compare(
    given: o.Given = None,
    presets: Annotated[
        str | None,
        typer.Option(
            "--presets", metavar="NAMES", help="Presets as they are, comma between. Default: none."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="NAMES",
            help="Methods (see: tokenreduce methods), comma between, on the frames of --preset. "
            "Default: aim,random,uniform if --presets is not given.",
        ),
    ] = None,
    mean_budgets: Annotated[
        str | None,
        typer.Option(
            "--mean-budgets",
            metavar="LIST",
            help="Each method at each mean of visual tokens a layer. Default: the preset's share.",
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            "--budgets",
            metavar="LIST",
            help="Each method at each count of visual tokens entering the LLM. Default: none.",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "-p",
            metavar="NAME",
            help="Whose frames the methods see. Default: balanced.",
        ),
    ] = "balanced",
    frames: o.Frames = None,
    model: o.Model = None,
    device: o.Device = None,
    quantize: o.Quantize = None,
    max_new_tokens: o.MaxNewTokens = None,
    seed: o.Seed = None,
    as_json: o.Json = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", metavar="", help="Comma-separated values on stdout.")
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Answer one QUESTION about one video FILE, or pictures, under several settings, side by side.

    A video is decoded and encoded once for all settings that look at the same frames; those that
    reduce inside the vision encoder encode by themselves. "same" says whether the answer is that
    of the unreduced model on the same frames or pictures.
    """
    import os

    from .kinds import Whole
    from .settings import read_flag, resolve

    flags = {
        "frames": frames,
        "model": model,
        "device": device,
        "quantize": quantize,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    chosen = resolve(flags, os.environ)
    values: dict[str, Any] = {name: chosen[name].value for name in flags}
    whole = Whole("whole numbers of visual tokens, comma between", 1)
    listed = {
        flag: [read_flag(flag, whole, one) for one in _split(text)]
        for flag, text in (("--mean-budgets", mean_budgets), ("--budgets", budgets))
    }
    if methods is None and presets is None:
        methods = "aim,random,uniform"
    files, question = parted(given)
    if not files:
        raise InputError(
            "no video or picture: give a local file, and a question after it in quotes"
        )
    asked = read_question(question)
    calm_libraries(quiet=quiet)
    with Watch(quiet=quiet, stream=False) as watch:
        from tokenreduce.compare import compare as run

        found = run(
            files,
            asked,
            presets=_split(presets),
            methods=_split(methods),
            mean_budgets=listed["--mean-budgets"],
            budgets=listed["--budgets"],
            preset=preset,
            watch=watch,
            **values,
        )
    if as_json:
        render.json_object(found.to_json())
    elif as_csv:
        _csv(found)
    else:
        _table(found)


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _cells(found: Comparison, *, exact: bool = False) -> list[tuple[str, ...]]:
    """exact: FLOPs as a plain number."""
    rows: list[tuple[str, ...]] = []
    for row in found.rows:
        answer, peak = row.answer, row.peak_bytes
        spent = answer.flops.llm + answer.flops.overhead
        rows.append(
            (
                row.label,
                "-" if row.same is None else "yes" if row.same else "no",
                f"{answer.tokens.merged}",
                f"{answer.tokens.mean_per_layer:.1f}",
                f"{spent:.0f}" if exact else quantity(spent, "FLOP"),
                f"{row.seconds:.3f}",
                "-" if peak is None else f"{peak / 2**20:.0f}",
                answer.answer,
            )
        )
    return rows


def _table(found: Comparison) -> None:
    render.columns([_HEAD, *_cells(found)])
    shared = ", ".join(f"{name} {spent:.2f}" for name, spent in found.shared_seconds.items())
    render.line()
    render.line(f"once for all, in seconds: {shared}")


def _csv(found: Comparison) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (
            "setting",
            "same_as_full",
            "visual_tokens",
            "mean_visual_tokens",
            "prefill_flop",
            "seconds",
            "peak_mib",
            "answer",
        )
    )
    writer.writerows(_cells(found, exact=True))
    render.raw(text.getvalue())
