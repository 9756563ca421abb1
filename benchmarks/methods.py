"""What each method takes by itself: seconds, peak memory, and its share of what it saves.

    python -m benchmarks.methods --repeats 5 --save
    python -m benchmarks.methods --frames 64 --repeats 1 --no-peaks                # a quick look
    python -m benchmarks.methods --device cuda --dtype bfloat16 --repeats 20 --save

Random tokens of a 7B model's sizes, in no model. Before the LLM each method goes from 196 tokens a
frame to a quarter, what the encoder showed given; inside it one layer is reduced, the first one of
the method's usual schedule. Time is of alternating runs in one process; peak memory is of a fresh
process for each case. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.methods_cases import VISION, Bench, Case, Setup, cases
from benchmarks.peaks import in_fresh_process, peak_bytes
from benchmarks.record import Spread, rounds, spreads, write
from tokenreduce.methods import METHODS

BASE = Case("aim-merge", "frames")
BEFORE, INSIDE = ("frames", "clip"), ("llm",)
WANTED = {"time_share, before the LLM": "<= 0.03"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    setup = Setup(
        options.size,
        options.frames[0],
        options.llm_frames,
        options.text,
        options.device,
        options.dtype,
        options.threads,
    )
    if options.peak_of:
        name, _, site = options.peak_of.partition("/")
        print(_peak(setup, Case(name, site)))
        return 0
    result = measure(setup, options)
    print(json.dumps(result, indent=2, default=vars))
    if options.save:
        write(options.name, result, vars(options))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=VISION, default="7b", help="dimensions (7b)")
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[64, 256], help="of 196 tokens each (64 256)"
    )
    parser.add_argument("--llm-frames", type=int, default=32, help="inside the LLM (32)")
    parser.add_argument("--text", type=int, default=100, help="text tokens (100)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--sites", nargs="+", choices=BEFORE + INSIDE, default=list(BEFORE + INSIDE)
    )
    parser.add_argument("--repeats", type=int, default=5, help="alternating rounds (5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (float32)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json")
    parser.add_argument("--name", default="methods", help="of the result (methods)")
    parser.add_argument("--no-peaks", action="store_true", help="leave memory out")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(setup: Setup, options: argparse.Namespace) -> dict[str, Any]:
    """Everything the record holds: one part for each count of frames, one for inside the LLM."""
    result: dict[str, Any] = {"compared_with": BASE.key, "wanted": WANTED}
    before = cases(options.methods, [s for s in options.sites if s in BEFORE])
    if before:
        before = [BASE, *(case for case in before if case != BASE)]
        for frames in options.frames:
            part = _measured(replace(setup, frames=frames), before, options)
            result[f"{frames} frames before the LLM"] = part
    inside = cases(options.methods, [s for s in options.sites if s in INSIDE])
    if inside:
        result[f"{setup.llm_frames} frames inside the LLM"] = _measured(setup, inside, options)
    return result


def _measured(
    setup: Setup, chosen: Sequence[Case], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    peaks = {} if options.no_peaks else {c.key: _peak_in_fresh_process(setup, c) for c in chosen}
    bench = Bench(setup)
    bench.warm_up(chosen)
    work = {case.key: partial(bench.timed, partial(bench.run, case)) for case in chosen}
    samples = rounds({**work, "product": partial(bench.timed, bench.product)}, options.repeats)
    return {case.key: _figures(bench, case, samples, peaks) for case in chosen}


def _figures(
    bench: Bench,
    case: Case,
    samples: Mapping[str, Sequence[Mapping[str, float]]],
    peaks: Mapping[str, int],
) -> dict[str, Any]:
    """time_share: seconds over those that the saved operations would take at the rate of the large
    product of the same round; inside the LLM for all layers, by what the first takes.
    """
    taken, own = samples[case.key], bench.own(case)
    key = "cpu_seconds" if bench.device.type == "cpu" else "wall_seconds"
    spared = [own.saved / bench.product_operations * one[key] for one in samples["product"]]
    figures: dict[str, Any] = {
        **spreads(taken),
        "own_flops": own.method,
        "evidence_flops": own.evidence,
        "saved_prefill_flops": own.saved,
        "flops_share": (own.method + own.evidence) / own.saved,
        "runs_in_a_prefill": own.times,
        "time_share": Spread.of(
            [own.times * one[key] / spare for one, spare in zip(taken, spared, strict=True)]
        ),
        "peak_bytes": peaks.get(case.key),
    }
    if BASE.key in samples:
        paired = zip(taken, samples[BASE.key], strict=True)
        figures["times_aim_merge"] = Spread.of([one[key] / base[key] for one, base in paired])
        figures["peak_times_aim_merge"] = peaks[case.key] / peaks[BASE.key] if peaks else None
    return figures


def _peak(setup: Setup, case: Case) -> int:
    torch.set_num_threads(setup.threads)
    bench = Bench(setup)
    return peak_bytes(partial(bench.run, case), bench.device)


def _peak_in_fresh_process(setup: Setup, case: Case) -> int:
    return in_fresh_process(
        "benchmarks.methods",
        [
            *("--peak-of", case.key, "--size", setup.size, "--frames", str(setup.frames)),
            *("--llm-frames", str(setup.llm_frames), "--text", str(setup.text_tokens)),
            *("--device", setup.device, "--dtype", setup.dtype, "--threads", str(setup.threads)),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
