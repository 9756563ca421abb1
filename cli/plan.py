"""`tokenreduce plan`: what a run would look at, compute and take, before anything is loaded."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from tokenreduce.errors import SettingError
from tokenreduce.video.inputs import checked

from . import options as o
from . import options_seen as s
from . import render
from .ask import calm_libraries
from .interrupts import at_once


def plan(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="A local video, or one or more pictures.", show_default=False
        ),
    ],
    presets: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            "-p",
            metavar="NAME",
            help="A preset to tell more of; give it several times. Default: balanced.",
        ),
    ] = None,
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
    newlines: s.Newlines = None,
    time_text: s.TimeText = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            metavar="",
            help="Plan for several questions of one FILE, as chat and several -q ask them, with "
            "what was said before. Default: one question.",
        ),
    ] = False,
    model: o.Model = None,
    revision: o.Revision = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    quantize: o.Quantize = None,
    device_map: o.DeviceMap = None,
    offline: o.Offline = None,
    max_new_tokens: o.MaxNewTokens = None,
    vram: Annotated[
        str | None,
        typer.Option(
            "--vram",
            metavar="SIZE",
            help="Say what fits into this much: 12GiB, 8GB, 12 (GiB), or auto for what is free on "
            "the card; without a card here, one of that size is planned for, or with --device cpu "
            "the CPU. Default: auto where there is a card, else no limit.",
        ),
    ] = None,
    as_json: o.JsonObject = False,
) -> None:
    """Say what a run would look at, compute and take, and which presets fit; nothing is loaded.

    From the model's configuration and the file's headers. Every preset is
    listed; the one that is named, or balanced, is told in full. Memory and
    seconds are predictions. Exit 0, whatever fits, and 2 where no preset can be used.
    """
    given = dict(locals())
    from .settings import SETTINGS, resolve

    flags = {one.name: given.get(one.name) for one in SETTINGS}
    flags["preset"] = presets[0] if presets else None
    chosen = resolve(flags, os.environ)
    values: dict[str, Any] = {name: one.value for name, one in chosen.items()}
    for name in files:
        checked(name)
    calm_libraries()
    with at_once():
        from tokenreduce.forecast import Refused  # and with it torch, for all that comes

    told = presets or [values["preset"]]
    from tokenreduce.shipped import preset_names

    listed = list(dict.fromkeys((*told, *preset_names())))
    from .plan_look import Look

    look = Look.at(files, values, many=chat)
    found = [look.ahead(preset) for preset in listed]
    reasons = [one.why for one in found if isinstance(one, Refused)]
    if len(reasons) == len(found) and len(set(reasons)) == 1:
        raise SettingError(reasons[0])
    if as_json:
        render.json_object(look.to_json(found))
    else:
        look.show(found[: len(told)])
        if len(found) > 1:
            look.listed(found)
    if len(reasons) == len(found):
        raise typer.Exit(2)
