"""Long videos: memory and time by length, overlap, seeking, further questions.

    python -m benchmarks.longvideo --save                                  # everything
    python -m benchmarks.longvideo --sections memory --save                # one part, merged in
    python -m benchmarks.longvideo --minutes 0.4 0.7 --repeats 1           # a look

The films are H.264, 1280 x 720, 25 frames a second, made in seconds. Every section says what was
wanted beside what was measured, and when and on which commit; with --save it takes the place of
the same section in results/longvideo.json. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import longvideo_parts, longvideo_runs, record
from benchmarks.longvideo_runs import Failed, Setup

NAME = "longvideo"
SECTIONS: Mapping[str, Callable[[Setup], dict[str, Any]]] = {
    "memory": longvideo_runs.memory,
    "frames": longvideo_runs.frames,
    "overlap": longvideo_parts.overlap,
    "seek": longvideo_parts.seek,
    "questions": longvideo_parts.questions,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch comes
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        setup = _setup(options, Path(folder))
        asked = {name: value for name, value in asdict(setup).items() if name in _TOLD}
        for name in options.sections:
            try:
                measured = SECTIONS[name](setup)
            except Failed as failed:
                print(f"benchmarks.longvideo: {name}: {failed}", file=sys.stderr)
                return 1
            found[name] = {**record.where(), "arguments": asked, **measured}
            print(json.dumps({name: found[name]}, indent=1, default=asdict), flush=True)
            if options.save:
                record.write(NAME, merged(found), {"sections": list(merged(found))})
    return 0


_TOLD = ("model", "minutes", "size", "budget", "fps", "repeats", "presets")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = list(SECTIONS)
    parser.add_argument(
        "--sections",
        type=lambda text: text.split(","),
        default=every,
        help=f"some of {','.join(every)} (all)",
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=Setup.minutes)
    parser.add_argument("--size", type=int, nargs=2, default=Setup.size, help="of the films")
    parser.add_argument("--repeats", type=int, default=Setup.repeats, help="of what is timed")
    parser.add_argument("--presets", nargs="+", default=Setup.presets)
    parser.add_argument("--budget", type=int, default=Setup.budget)
    parser.add_argument("--model", default=Setup.model)
    parser.add_argument("--folder", help="for the films; a temporary one by default")
    parser.add_argument("--command", type=shlex.split, default=Setup.command, help="what is run")
    parser.add_argument("--save", action="store_true", help=f"write results/{NAME}.json")
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return options


def _setup(options: argparse.Namespace, folder: Path) -> Setup:
    return Setup(
        folder,
        command=tuple(options.command),
        model=options.model,
        minutes=tuple(sorted(options.minutes)),
        size=tuple(options.size),
        budget=options.budget,
        repeats=options.repeats,
        presets=tuple(options.presets),
    )


def merged(found: Mapping[str, Any]) -> dict[str, Any]:
    """All sections there are, those `found` in place of older ones."""
    return record.merged(NAME, found, SECTIONS)


if __name__ == "__main__":
    raise SystemExit(main())
