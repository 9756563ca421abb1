"""What benchmarks/gpu.py can be told, and what is refused. Imports no section, runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch


def parse(
    arguments: Sequence[str] | None, says: str | None, sections: Sequence[str], result: Path
) -> argparse.Namespace:
    """says: what the command does. sections: all there are. result: where figures go unless told.

    Ends the process with 2 for what cannot be meant, as argparse does.
    """
    parser = argparse.ArgumentParser(
        description=says, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sections",
        metavar="A,B",
        type=partial(_sections, every=sections),
        default=list(sections),
        help=f"some of: {', '.join(sections)}; all by default",
    )
    parser.add_argument(
        "--device", type=_device, default="cuda", help="cuda, cuda:N or cpu (default: cuda)"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for all (9)")
    parser.add_argument("--repeats", type=int, help="alternating rounds (5; tiny: 1)")
    parser.add_argument("--resume", action="store_true", help="skip what is there already")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, a few frames")
    parser.add_argument(
        "--half",
        action="store_true",
        help="a 0.5B model, 16 frames: for a CPU; rows keep their names",
    )
    parser.add_argument("--folder", help="for the films; a temporary one by default")
    parser.add_argument("--output", type=Path, help=f"results/{result.name}; tiny: none")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--commit", help="its name; git is asked by default")
    parser.add_argument("--stand-in", type=float, default=1.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.output is None and not options.tiny:  # tiny figures mean nothing
        options.output = result.with_stem(f"{result.stem}-half") if options.half else result
    return options


def _sections(text: str, every: Sequence[str]) -> list[str]:
    named = [name for part in text.split(",") if (name := part.strip())]
    unknown = sorted(set(named) - set(every))
    if unknown or not named:
        told = f"no such section: {', '.join(unknown)}" if unknown else "no section is named"
        raise argparse.ArgumentTypeError(f"{told}; there are {', '.join(every)}")
    return named


def _device(text: str) -> torch.device:
    """Whether a card is there is not asked."""
    try:
        device = torch.device(text.strip())
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "cpu"):
        raise argparse.ArgumentTypeError(f"{text!r} is none; give cuda, cuda:N or cpu")
    return device
