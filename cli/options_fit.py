"""The options about the device's memory; read as `options_seen` reads its own."""

from __future__ import annotations

from typing import Annotated

import typer

from .options_seen import option

_MEMORY = "The device's memory"

Vram = Annotated[
    str | None,
    option(
        "--vram",
        panel=_MEMORY,
        metavar="SIZE",
        help="Keep within this much: 12GiB, 8GB, 12 (GiB), or auto for what is free on the card. "
        "What would not fit is refused before decoding. Default: no limit.",
    ),
]
Fit = Annotated[
    bool | None,
    typer.Option(
        "--fit/--no-fit",
        metavar="",
        rich_help_panel=_MEMORY,
        help="Lower the budget, then the frames, where that is needed to fit, and say so. "
        "Default: --no-fit.",
    ),
]
