"""Whole `tokenreduce ask` processes on films of minutes and hours: memory, and time a frame.

A film is twenty seconds of H.264 repeated, so that its frames cost the same from the first to the
last. What every run pays once, imports and weights, is known from the shortest film there is and
taken off where a cost is stated per frame. Knows the command and its JSON, not the library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.family import FamilyRun, run_family
from benchmarks.long_files import FILM_SECONDS, Kind, make
from benchmarks.record import Spread, rounds, spreads

QUESTION = "What colour is the star that appears briefly?"
PEAK_RATIO, PEAK_BYTES = 1.1, 1.5e9
FRAME_RATIO = 1.15
FLAT = ("inside_seconds", "cpu_seconds")
"""What is stated per frame: wall seconds of decoding, encoding and reducing as the answer gives
them, and CPU seconds of all processes."""


class Failed(Exception):
    """A command that had to succeed did not."""


@dataclass(frozen=True)
class Setup:
    """What the sections share.

    folder   where films are made and kept while the benchmark runs
    minutes  of the films; the first and the last are compared
    size     width and height in pixels, of all films
    """

    folder: Path
    command: tuple[str, ...] = (str(Path(sys.executable).parent / "tokenreduce"),)
    model: str = "demo"
    minutes: tuple[float, ...] = (10, 60, 180)
    size: tuple[int, int] = (1280, 720)
    budget: int = 2000
    fps: float = 1.0
    repeats: int = 3
    presets: tuple[str, ...] = ("balanced", "aim")
    timeout_seconds: float = 3600.0

    def film(self, kind: Kind, minutes: float) -> Path:
        """Made once."""
        path = self.folder / f"{kind}-{minutes:g}.mp4"
        if not path.exists():
            make(path, minutes * 60, kind, size=self.size)
        return path

    def ask(
        self, film: Path, *options: str, env: Mapping[str, str] | None = None
    ) -> tuple[FamilyRun, list[dict[str, Any]]]:
        """One process, and the answers it gave. Raises Failed if it did not."""
        command = [*self.command, "ask", str(film), *options, "--model", self.model, "--json"]
        run = run_family([*command, "--quiet"], env, self.timeout_seconds)
        if run.returncode:
            raise Failed(f"ask exited with {run.returncode}: {run.stderr.strip()[-500:]}")
        return run, [json.loads(line) for line in run.stdout.splitlines()]


def once(setup: Setup, kind: Kind, minutes: float, preset: str, skip: str) -> dict[str, float]:
    """One whole run over a film, sampled by the second, nothing cached."""
    run, (answer,) = setup.ask(
        setup.film(kind, minutes),
        QUESTION,
        *("--fps", f"{setup.fps:g}", "--budget", str(setup.budget), "--preset", preset),
        *("--skip-duplicates", skip, "--no-cache"),
    )
    seconds, frames = answer["seconds"], answer["frames"]
    return {
        **run.figures,
        "inside_seconds": seconds["decode"] + seconds["encode"] + seconds["reduce"],
        **{f"{name}_seconds": seconds[name] for name in ("decode", "encode", "reduce", "load")},
        "first_token_seconds": seconds["first_token"],
        "encoded": frames["decoded"],
        "repeats": frames["repeats"],
        "sampled": frames["decoded"] + frames["repeats"],
        "merged": answer["tokens"]["merged"],
    }


def memory(setup: Setup) -> dict[str, Any]:
    """Each length once: memory does not depend on how busy the machine is."""
    cases: list[tuple[str, Kind, str, str]] = [
        (f"busy, {preset}", "busy", preset, "off") for preset in setup.presets
    ]
    cases.append((f"static, {setup.presets[0]}, skip auto", "static", setup.presets[0], "auto"))
    found: dict[str, Any] = {}
    for name, kind, preset, skip in cases:
        runs = {m: once(setup, kind, m, preset, skip) for m in setup.minutes}
        peaks = [run["sum_of_peaks_bytes"] for run in runs.values()]
        found[name] = {
            "by_minutes": {f"{minutes:g}": run for minutes, run in runs.items()},
            "peak_ratio": peaks[-1] / peaks[0],
            "met": peaks[-1] <= PEAK_RATIO * peaks[0] and max(peaks) < PEAK_BYTES,
        }
    return {
        "wanted": {"peak_ratio": PEAK_RATIO, "sum_of_peaks_bytes": PEAK_BYTES},
        "measured": found,
        "met": all(case["met"] for case in found.values()),
    }


def frames(setup: Setup) -> dict[str, Any]:
    """Time a frame by length, and what a film costs in which nothing happens."""
    preset = setup.presets[0]
    shortest, longest = setup.minutes[0], setup.minutes[-1]
    still = setup.minutes[len(setup.minutes) // 2]
    lengths = (FILM_SECONDS / 60, shortest, longest)
    cases = {
        f"busy {minutes:g}": partial(once, setup, "busy", minutes, preset, "off")
        for minutes in lengths
    }
    cases[f"static {still:g}"] = partial(once, setup, "static", still, preset, "auto")
    taken = rounds(cases, setup.repeats)
    base, short, long, _ = taken.values()
    ratios = {name: Spread.of(_flat(name, base, short, long)) for name in FLAT}
    return {
        "wanted": {"ratio": FRAME_RATIO},
        "measured": {
            "ratio": ratios,
            "compared": [f"busy {minutes:g}" for minutes in (longest, shortest)],
            "per_frame": {
                name: {what: Spread.of(_per_frame(what, base, runs)) for what in FLAT}
                for name, runs in taken.items()
                if runs is not base
            },
            "runs": {name: spreads(runs) for name, runs in taken.items()},
        },
        "met": all(ratio.median <= FRAME_RATIO for ratio in ratios.values()),
    }


Runs = Sequence[Mapping[str, float]]


def _per_frame(what: str, base: Runs, runs: Runs) -> list[float]:
    """Of each round, beyond what the shortest film costs."""
    return [
        (run[what] - least[what]) / (run["sampled"] - least["sampled"])
        for run, least in zip(runs, base, strict=True)
    ]


def _flat(what: str, base: Runs, short: Runs, long: Runs) -> list[float]:
    """Per frame, long against short, within a round."""
    pairs = zip(_per_frame(what, base, long), _per_frame(what, base, short), strict=True)
    return [one / other for one, other in pairs]
