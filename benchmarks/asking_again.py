"""What the prefill of a further question costs against a full one, at Qwen2-0.5B's dimensions.

    python -m benchmarks.asking_again --save
    python -m benchmarks.asking_again --frames 16 --layers 8 --repeats 1            # a look
    python -m benchmarks.asking_again --size 7b --device cuda --dtype bfloat16 --save

Random weights, random visual tokens between some text that stays and a question that is new. What
stands before anything is chosen was kept from an earlier question; the choice is made afresh. Only
the language model runs; times are of alternating runs in one process. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.prefill_cases import CASES, SIZES, Bench, Case, Setup
from benchmarks.record import Spread, rounds, spreads, write
from tokenreduce import memory
from tokenreduce.budget import Layout
from tokenreduce.cost import Reused, llm_cost
from tokenreduce.engine.host import read_prompt
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.types import Plan, Prefilled, Prompt, Prune
from tokenreduce.overhead import inside_llm
from tokenreduce.preset import load_preset
from tokenreduce.tokens import Tokens

NAMES: Mapping[str, Case] = {
    "AIM's ramp": CASES["merged_pruned"],
    "balanced's once": replace(CASES["drift"], schedule=load_preset("balanced").in_llm[0].schedule),
    "drift's usual": CASES["drift"],
    "nothing pruned": CASES["merged"],
}
SHIPPED = ("AIM's ramp", "balanced's once")
"""What presets do, of which the wanted figures are asked."""
LIMIT_BYTES = 16 << 30
WANTED = {"further_over_full": 0.35, "logits_differ_by": 1e-5}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    found = {}
    for frames in options.frames:
        layers = options.layers or SIZES[options.size].layers
        setup = Setup(options.size, layers, frames, options.text, options.device, options.dtype, 1)
        found[f"{frames} frames"] = measure(setup, options.new, options.repeats)
    cases = [case for one in found.values() for name, case in one.items() if name in SHIPPED]
    result = {
        "cases": found,
        "wanted": WANTED,
        "met": all(case["met"] for case in cases),
    }
    print(json.dumps(result, indent=2, default=vars))
    if options.save:
        told = ("size", "layers", "frames", "text", "new", "repeats", "device", "dtype")
        write(options.name, result, {name: getattr(options, name) for name in told})
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="dimensions (0.5b)")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--frames", type=int, nargs="+", default=[24, 64], help="(24 and 64)")
    parser.add_argument("--text", type=int, default=80, help="text tokens that stay (80)")
    parser.add_argument("--new", type=int, default=24, help="of each question (24)")
    parser.add_argument("--repeats", type=int, default=3, help="alternating rounds (3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (float32)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json")
    parser.add_argument("--name", default="asking_again", help="of the result (asking_again)")
    return parser.parse_args(arguments)


def measure(setup: Setup, new: int, repeats: int) -> dict[str, Any]:
    """Each way of pruning by itself."""
    bench = Bench.build(setup)
    return {name: _case(Asked.of(bench, case, new), repeats) for name, case in NAMES.items()}


@dataclass(frozen=True)
class Asked:
    """One video in one prompt after the other. visual: (1, n, d), as it enters the LLM."""

    bench: Bench
    prunes: tuple[Prune, ...]
    visual: Tensor
    new: int

    @classmethod
    def of(cls, bench: Bench, case: Case, new: int) -> Asked:
        prunes = (bench.prune(case),) if case.way == "engine" else ()
        return cls(bench, prunes, _random(bench, bench.entering(case), 0), new)

    def prompt(self, question: int) -> Prompt:
        """The `question`-th: all but its last `new` tokens are those of any other."""
        bench, n = self.bench, self.visual.shape[1]
        half = bench.setup.text_tokens // 2
        text, asked = bench.text, _random(bench, self.new, 1 + question)
        embeds = torch.cat([text[:, :half], self.visual, text[:, half:], asked], dim=1)
        places = torch.arange(half, half + n, device=bench.device)
        return Prompt(embeds, places, Tokens.fresh(self.visual).bare(), Layout(1, 1, n))

    @torch.no_grad()
    def read(self, question: int, stem: Stem | None) -> Prefilled:
        plan = Plan(self.prompt(question), self.prunes, stem=stem)
        return read_prompt(self.bench.model, plan, DynamicCache())

    def timed(self, stem: Stem | None) -> dict[str, float]:
        device = self.bench.device
        gc.collect()
        memory.synchronise(device)
        wall, cpu = time.perf_counter(), time.process_time()
        self.read(1, stem)
        memory.synchronise(device)
        return {
            "wall_seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }

    def flops(self, read: Prefilled, reused: Reused) -> int:
        """Of the language model's prefill and of what is chosen inside it."""
        spec, text = self.bench.spec, self.bench.setup.text_tokens + self.new
        own = inside_llm(self.prunes, spec, read.per_layer, text)
        return (llm_cost(spec, read.per_layer, text, reused=reused) + own).total


def _random(bench: Bench, tokens: int, seed: int) -> Tensor:
    """(1, tokens, d), the same for the same seed."""
    like, generator = bench.text, torch.Generator(bench.device).manual_seed(seed)
    size = (1, tokens, bench.spec.width)
    return torch.randn(size, generator=generator, device=like.device, dtype=like.dtype)


def _case(asked: Asked, repeats: int) -> dict[str, Any]:
    """further: from what an earlier question left. keeping: full, and what was read is kept."""
    full = asked.read(1, None)  # also sets up what the first run of these shapes sets up
    stem = asked.read(0, Stem(LIMIT_BYTES)).stem
    if stem is None or not stem.positions:
        raise RuntimeError("nothing was kept of the first question")
    further = asked.read(1, stem)
    cases = {
        "full": partial(asked.timed, None),
        "further": partial(asked.timed, stem),
        "keeping": partial(asked.timed, Stem(LIMIT_BYTES)),
    }
    taken = rounds(cases, repeats)
    key = "cpu_seconds" if asked.bench.device.type == "cpu" else "wall_seconds"
    ratio = _ratio(taken["further"], taken["full"], key)
    differs = float((further.logits - full.logits).float().abs().max())
    return {
        "visual_tokens": asked.visual.shape[1],
        "further_over_full": ratio,
        "keeping_over_full": _ratio(taken["keeping"], taken["full"], key),
        "flops_ratio": asked.flops(further, further.reused) / asked.flops(full, full.reused),
        "logits_differ_by": differs,
        "kept": {
            "layers": stem.layers,
            "positions": stem.positions,
            "bytes": stem.nbytes,
        },
        **{name: spreads(runs) for name, runs in taken.items()},
        "met": ratio.median <= WANTED["further_over_full"]
        and differs <= WANTED["logits_differ_by"],
    }


def _ratio(
    these: Sequence[Mapping[str, float]], those: Sequence[Mapping[str, float]], key: str
) -> Spread:
    """Within each round."""
    return Spread.of([one[key] / other[key] for one, other in zip(these, those, strict=True)])


if __name__ == "__main__":
    raise SystemExit(main())
