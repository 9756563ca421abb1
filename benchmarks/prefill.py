"""What reduction buys in a prefill: plain, merged, pruned, both, and pruned by masking only.

    python -m benchmarks.prefill --repeats 5 --save
    python -m benchmarks.prefill --layers 8 --repeats 3                       # a quick look
    python -m benchmarks.prefill --size 7b --device cuda --dtype bfloat16 --save

Random weights: the sizes are a real model's, the vocabulary is small, and nothing is read from
disk. "plain" is the stock transformers forward with SDPA. Time is of alternating runs in one
process; peak memory is of a fresh process for each case. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from benchmarks.peaks import in_fresh_process
from benchmarks.prefill_cases import CASES, SIDE, SIZES, Bench, Case, Setup
from benchmarks.record import Spread, rounds, spreads, write
from tokenreduce import cost, overhead
from tokenreduce.methods.drift_merge import DriftMerge
from tokenreduce.work import Cost, Sizes, bipartite

WANTED = {
    "speedup_over_flops_ratio": ">= 0.95",
    "merged_pruned_speedup": ">= 5.6 at the 0.5b size, 28 layers",
    "importance_share": "<= 0.03",
    "merged_pruned_peak_share_of_plain": "<= 0.25",
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    setup = Setup(
        size=options.size,
        layers=options.layers or SIZES[options.size].layers,
        frames=options.frames,
        text_tokens=options.text,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
    )
    if options.peak_of:
        print(json.dumps(Bench.build(setup).peak_bytes(CASES[options.peak_of])))
        return 0
    names = options.cases or list(CASES)
    peaks = {} if options.no_peaks else {n: _peak_in_fresh_process(setup, n) for n in names}
    result = measure(setup, names, options.repeats, peaks)
    print(json.dumps(result, indent=2, default=vars))
    if options.save:
        write(options.name, result, {**vars(setup), "repeats": options.repeats, "cases": names})
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="dimensions (0.5b)")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--frames", type=int, default=16, help="of 14 x 14 tokens each (16)")
    parser.add_argument("--text", type=int, default=100, help="text tokens (100)")
    parser.add_argument("--repeats", type=int, default=5, help="alternating rounds (5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (float32)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="only these (all)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json")
    parser.add_argument("--name", default="prefill", help="of the result (prefill)")
    parser.add_argument("--no-peaks", action="store_true", help="leave memory out")
    parser.add_argument("--peak-of", choices=CASES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(
    setup: Setup, names: Sequence[str], repeats: int, peaks: Mapping[str, int]
) -> dict[str, Any]:
    """Everything the record holds: what each case took, and against the first of `names`."""
    bench = Bench.build(setup)
    bench.warm_up([CASES[name] for name in names])
    samples = rounds({name: partial(bench.timed, CASES[name]) for name in names}, repeats)
    base, key = names[0], "cpu_seconds" if setup.device == "cpu" else "wall_seconds"
    cases: dict[str, Any] = {}
    for name in names:
        taken = samples[name]
        flops, own = _flops(bench, CASES[name])
        unreduced = _flops(bench, CASES[base])[0].total
        paired = zip(samples[base], taken, strict=True)
        speedup = Spread.of([plain[key] / run[key] for plain, run in paired])
        cases[name] = {
            **spreads(taken),
            "importance_share": median(s["importance_seconds"] / s[key] for s in taken),
            "merge_share": median(s["merge_seconds"] / s[key] for s in taken),
            "flops": {"matmul": flops.matmul, "elementwise": flops.elementwise},
            "overhead_flops": own.total,
            "speedup": speedup,
            "flops_ratio": unreduced / flops.total,
            "speedup_over_flops_ratio": speedup.median * flops.total / unreduced,
            "peak_over_model_bytes": peaks.get(name),
            "peak_share": peaks[name] / peaks[base] if peaks else None,
            "visual_per_layer": bench.per_layer(CASES[name]),
        }
    return {"compared_with": base, "speedup_of": key, "cases": cases, "wanted": WANTED}


def _flops(bench: Bench, case: Case) -> tuple[Cost, Cost]:
    """Of the language model, charged where it acts, and of the reduction itself."""
    setup, spec = bench.setup, bench.spec
    per_layer = bench.per_layer(case)
    own = Cost()
    if case.own:
        clip = Sizes(1, setup.frames * SIDE**2, spec.width)
        own += overhead.rounds(DriftMerge(), clip, bench.entering(case))
    elif case.merged:
        own += bipartite(spec.width, setup.frames, [196, 98, 49], spec.width)
    if case.way == "engine":
        own += overhead.inside_llm([bench.prune(case)], spec, per_layer, setup.text_tokens)
    return cost.llm_cost(spec, per_layer, setup.text_tokens), own


def _peak_in_fresh_process(setup: Setup, name: str) -> int:
    return in_fresh_process(
        "benchmarks.prefill",
        [
            *("--peak-of", name, "--size", setup.size, "--layers", str(setup.layers)),
            *("--frames", str(setup.frames), "--text", str(setup.text_tokens)),
            *("--device", setup.device, "--dtype", setup.dtype, "--threads", str(setup.threads)),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
