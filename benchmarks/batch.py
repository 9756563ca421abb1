"""A batch against a shell loop, against its own parts, and over hundreds of clips.

    python -m benchmarks.batch --save                           # all sections, two idle cores
    python -m benchmarks.batch --sections throughput --repeats 1 --clips 2              # a look

    throughput  N clips, three questions each: `tokenreduce ask` for every answer, `ask` for every
                clip with its questions, and one `tokenreduce batch`; whole commands, imports and
                all, the cache off
    overlap     the same clips by one worker's desk, against decoding alone and the rest alone
    memory      a batch over hundreds of clips: what its processes hold while it runs

Demo model; sections are kept apart in results/batch.json, each with its own date and commit.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import record
from benchmarks.batch_overlap import overlap
from benchmarks.batch_parts import Setup, memory, throughput
from benchmarks.longvideo_runs import Failed

NAME = "batch"
SECTIONS = {"throughput": throughput, "overlap": overlap, "memory": memory}
_TOLD = ("model", "clips", "many", "repeats")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch comes
    found = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        setup = Setup(
            Path(folder),
            tuple(options.command),
            options.model,
            options.clips,
            options.many,
            options.repeats,
        )
        asked = {name: value for name, value in asdict(setup).items() if name in _TOLD}
        for name in options.sections:
            try:
                measured = SECTIONS[name](setup)
            except Failed as failed:
                print(f"benchmarks.batch: {name}: {failed}", file=sys.stderr)
                return 1
            found[name] = {**record.where(), "arguments": asked, **measured}
            print(json.dumps({name: found[name]}, indent=1, default=asdict), flush=True)
            if options.save:
                every = record.merged(NAME, found, SECTIONS)
                record.write(NAME, every, {"sections": list(every)})
    return 0


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
    parser.add_argument("--clips", type=int, default=10, help="of throughput and overlap (10)")
    parser.add_argument("--many", type=int, default=400, help="clips of memory (400)")
    parser.add_argument("--repeats", type=int, default=3, help="of what is timed (3)")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--folder", help="for the clips; a temporary one by default")
    parser.add_argument(
        "--command",
        type=shlex.split,
        default=[str(Path(sys.executable).parent / "tokenreduce")],
        help="what is run; default: the tokenreduce of this environment",
    )
    parser.add_argument("--save", action="store_true", help=f"write results/{NAME}.json")
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
