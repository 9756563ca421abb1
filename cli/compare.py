"""`tokenreduce compare`: several settings on one video or pictures, side by side."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from typing import Annotated, Any

import typer

from tokenreduce.compared import Comparison, Refused, Row
from tokenreduce.errors import InputError, SettingError

from . import options as o
from . import options_seen as s
from . import render
from .ask import calm_libraries
from .interrupts import at_once
from .question import parted, read_question
from .watch import Watch

_HEAD = ("setting", "same", "in", "mean", "TFLOP", "LLM", "s", "MiB", "answer")
_ANSWER = 20  # columns that an answer needs at least
_COLUMNS = (
    "setting",
    "same_as_full",
    "visual_tokens",
    "mean_visual_tokens",
    "prefill_flop",
    "seconds",
    "peak_mib",
    "answer",
    "flop",
    "refused",
)
_NOTE = "TFLOP and s: with the vision tower, as if alone; LLM: without"


def compare(
    given: s.Given = None,
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
    frames: s.Frames = None,
    model: o.Model = None,
    device: o.Device = None,
    quantize: o.Quantize = None,
    device_map: o.DeviceMap = None,
    offline: o.Offline = None,
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
    of the unreduced model on the same frames or pictures. A setting that cannot be is refused in
    its row, and the others go on.
    """
    import os

    if as_json and as_csv:
        raise SettingError("--json and --csv both say what is written to stdout: give one of them")

    from .kinds import Whole
    from .settings import read_flag, resolve

    flags = {
        "frames": frames,
        "model": model,
        "device": device,
        "quantize": quantize,
        "device_map": device_map,
        "offline": offline,
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
    calm_libraries()
    with at_once():
        from tokenreduce.compare import compare as run

    with Watch(quiet=quiet, stream=False) as watch:
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


def _table(found: Comparison) -> None:
    rows = [_HEAD, *(_cells(one) for one in found.settings)]
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    if sys.stdout.isatty() and sum(widths[:-1]) + _ANSWER > shutil.get_terminal_size().columns:
        _stacked(rows, widths)
    else:
        render.columns(rows)
    shared = ", ".join(f"{name} {spent:.2f}" for name, spent in found.shared_seconds.items())
    render.line()
    render.columns([(f"once for all, in seconds: {shared}",)])
    render.columns([(_NOTE,)])


def _stacked(rows: list[tuple[str, ...]], widths: list[int]) -> None:
    """For a narrow terminal: the answer beside the setting, and the numbers below."""
    for number, (label, *figures, answer) in enumerate(rows):
        if number:
            render.columns([(f"{label}:", answer)])
        if any(figure != "-" for figure in figures):
            cells = [f"{one:<{width}}" for one, width in zip(figures, widths[1:-1], strict=True)]
            render.line(f"  {''.join(cells)}".rstrip())


def _cells(one: Row | Refused) -> tuple[str, ...]:
    if isinstance(one, Refused):
        return (one.label, *["-"] * (len(_HEAD) - 2), f"refused: {one.why}")
    return (
        one.label,
        _same(one),
        f"{one.answer.tokens.merged}",
        f"{one.answer.tokens.mean_per_layer:.1f}",
        _tera(one.flops),
        _tera(one.llm_flops),
        f"{one.seconds:.3f}",
        _mebibytes(one),
        one.answer.answer,
    )


def _csv(found: Comparison) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for one in found.settings:
        if isinstance(one, Refused):
            writer.writerow({"setting": one.label, "refused": one.why})
            continue
        writer.writerow(
            {
                "setting": one.label,
                "same_as_full": _same(one),
                "visual_tokens": one.answer.tokens.merged,
                "mean_visual_tokens": f"{one.answer.tokens.mean_per_layer:.1f}",
                "prefill_flop": f"{one.llm_flops:.0f}",
                "seconds": f"{one.seconds:.3f}",
                "peak_mib": _mebibytes(one),
                "answer": one.answer.answer,
                "flop": f"{one.flops:.0f}",
            }
        )
    render.raw(text.getvalue())


def _same(row: Row) -> str:
    return "-" if row.same is None else "yes" if row.same else "no"


def _mebibytes(row: Row) -> str:
    return "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}"


def _tera(flops: float) -> str:
    """In TFLOP, three figures."""
    return f"{flops / 1e12:.0f}" if flops >= 99.95e12 else f"{flops / 1e12:#.3g}"
