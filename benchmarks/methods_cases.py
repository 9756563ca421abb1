"""The cases of benchmarks/methods.py: one method, at one site, on random tokens of real sizes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor

from benchmarks.prefill_cases import SIDE, SIZES
from tokenreduce import cost, memory, overhead
from tokenreduce.budget import Layout
from tokenreduce.engine.types import Prune
from tokenreduce.methods import METHODS
from tokenreduce.models.spec import TextSpec, VisionSpec
from tokenreduce.paradigm import Method, Site, reduce
from tokenreduce.schedule import Full
from tokenreduce.seen import Evidence, Seen
from tokenreduce.tokens import Attention, Tokens
from tokenreduce.work import Sizes

VISION = {
    "tiny": VisionSpec(2, 32, 64, 2, 14 * 2 * SIDE, 14),
    "7b": VisionSpec(26, 1152, 4304, 16, 384, 14),
}
PATCHES = SIDE * SIDE
KEEP = 4  # one of as many tokens stays, before the LLM
AT_ONCE = 16  # frames, as the reducer has it


@dataclass(frozen=True)
class Setup:
    """What is run: a model of `size`; `frames` of 14 x 14 tokens before its LLM, `llm_frames`
    inside. device "cpu" or "cuda", dtype "float32" or "bfloat16"."""

    size: str
    frames: int
    llm_frames: int
    text_tokens: int
    device: str
    dtype: str
    threads: int

    @property
    def text(self) -> TextSpec:
        return SIZES[self.size]

    @property
    def vision(self) -> VisionSpec:
        return VISION[self.size]


@dataclass(frozen=True)
class Case:
    name: str
    site: Site

    @property
    def key(self) -> str:
        return f"{self.name}/{self.site}"

    @property
    def method(self) -> Method:
        return METHODS[self.name]()


def cases(names: Sequence[str], sites: Sequence[Site]) -> list[Case]:
    """Every method of `names` at every one of `sites` where it can act."""
    return [
        Case(name, site)
        for name in names
        for site in get_args(Site)
        if site in sites and site in METHODS[name]().sites
    ]


@dataclass(frozen=True)
class Own:
    """What a method computes in a run, and what the prefill is spared by it.

    method, evidence  operations of the method, and of what the encoder shows it
    saved             operations of the LLM's prefill
    times             how often the timed work is done in a run: once; inside the LLM, where later
                      layers have fewer tokens, by operations, or by layers if there are none
    """

    method: int
    evidence: int
    saved: int
    times: float


@dataclass(frozen=True)
class Bench:
    """Random inputs, made when a case first asks for them."""

    setup: Setup

    @property
    def device(self) -> torch.device:
        return torch.device(self.setup.device)

    def _drawn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or getattr(torch, self.setup.dtype)
        generator = torch.Generator(self.device).manual_seed(sum(shape))
        return torch.randn(*shape, generator=generator, device=self.device, dtype=dtype)

    @cached_property
    def features(self) -> Tensor:
        return self._drawn(self.setup.frames, PATCHES, self.setup.text.width)

    @cached_property
    def evidence(self) -> Evidence:
        f, vision, dtype = self.setup.frames, self.setup.vision, torch.float32
        salience = self._drawn(f, PATCHES, dtype=dtype).softmax(dim=-1)
        head_width = vision.width // vision.heads
        keys = self._drawn(f, PATCHES, vision.heads, head_width, dtype=dtype)
        pairs = self._drawn(f, PATCHES, PATCHES, dtype=dtype).softmax(dim=-1)
        return Evidence(salience, keys, pairs)

    @cached_property
    def layer(self) -> Seen:
        """One layer of the LLM, half of the text before the visual tokens."""
        text, length = self.setup.text, self._visual + self.setup.text_tokens
        q = self._drawn(1, text.heads, length, text.head_width)
        k = self._drawn(1, text.kv_heads, length, text.head_width)
        before = self.setup.text_tokens // 2
        visual = torch.arange(before, before + self._visual, device=self.device)
        entered = self._drawn(length, text.width)
        tokens = Tokens.fresh(entered[visual].unsqueeze(0))
        return Seen(
            tokens,
            tokens.x,
            Layout(self.setup.llm_frames, SIDE, SIDE),
            visual,
            Attention(q, k, text.head_width**-0.5, causal=True),
            entered=lambda: entered,
        )

    @property
    def _visual(self) -> int:
        return self.setup.llm_frames * PATCHES

    @torch.no_grad()
    def run(self, case: Case) -> int:
        """The tokens that are left, all rows together."""
        reduced = [reduce(case.method, seen, keep) for seen, keep in self._met(case)]
        return sum(tokens.rows * tokens.count for tokens in reduced)

    def _met(self, case: Case) -> Iterator[tuple[Seen, int]]:
        """What the case's method meets, and how many tokens of each row it keeps; inside the LLM at
        the first layer after which some go by its usual schedule."""
        if case.site == "llm":
            counts = self._per_layer(case)
            at = next(i for i, (a, b) in enumerate(pairwise(counts)) if b < a)
            yield replace(self.layer, depth=(at, self.setup.text.layers)), counts[at + 1]
            return
        if case.site == "clip":
            grid = Layout(self.setup.frames, SIDE, SIDE)
            parts = [(self.features.flatten(0, 1).unsqueeze(0), self.evidence.as_one_row())]
        else:
            grid = Layout(1, SIDE, SIDE)
            index = torch.arange(self.setup.frames, device=self.device).split(AT_ONCE)
            parts = [(self.features[i[0] : i[-1] + 1], self.evidence.rows(i)) for i in index]
        for x, shown in parts:
            metric = x
            if "keys" in case.method.needs and shown.keys is not None:
                metric = shown.keys.mean(dim=2)
            yield Seen(Tokens.fresh(x), metric, grid, evidence=shown), x.shape[1] // KEEP

    def _per_layer(self, case: Case) -> tuple[int, ...]:
        """Visual tokens each layer attends to, and then what leaves the last."""
        schedule, depth = case.method.usual or Full(), self.setup.text.layers
        last = schedule.kept(depth - 1, depth, self._visual)
        return (*cost.acting(schedule, depth, self._visual), last)

    def own(self, case: Case) -> Own:
        """By the cost model. Before the LLM from frames x 210 tokens, newlines included, to a
        quarter; inside it by the method's usual schedule."""
        setup, text = self.setup, self.setup.text
        if case.site != "llm":
            layout = Layout(setup.frames, SIDE, SIDE, "grid")
            budget = layout.available // KEEP
            site = case.site if case.site == "clip" else "frames"
            specs = (setup.vision, text)
            all_ = overhead.before_llm(case.method, specs, layout, budget, site=site).total
            shown = (overhead.shown(case.method, setup.vision) * setup.frames).total
            counts = [budget] * text.layers
            return Own(all_ - shown, shown, self._saved(layout.available, counts), 1)
        *counts, last = self._per_layer(case)
        stage = [Prune(case.method, case.method.usual or Full())]
        own = overhead.inside_llm(stage, text, counts, setup.text_tokens).total
        steps = [(a, b) for a, b in pairwise([*counts, last]) if b < a]
        n, head_width = steps[0][0], text.head_width
        first = case.method.work(
            Sizes(1, n, text.width, text.width, text.heads, head_width, n + setup.text_tokens),
            steps[0][1],
        ).total
        return Own(own, 0, self._saved(self._visual, counts), own / first if first else len(steps))

    def _saved(self, visual: int, counts: list[int]) -> int:
        text, words = self.setup.text, self.setup.text_tokens
        whole = cost.llm_cost(text, [visual] * text.layers, words)
        return whole.total - cost.llm_cost(text, counts, words).total

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Of the large matrix product that says what the machine can do."""
        rows = 512 if self.device.type == "cpu" else 8192
        width, mlp = self.setup.text.width, self.setup.text.mlp_width
        return self._drawn(rows, width), self._drawn(width, mlp)

    def product(self) -> Tensor:
        a, b = self.factors
        return a @ b

    @property
    def product_operations(self) -> int:
        a, b = self.factors
        return 2 * a.shape[0] * a.shape[1] * b.shape[1]

    def timed(self, work: Callable[[], object]) -> dict[str, float]:
        gc.collect()
        memory.synchronise(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        memory.synchronise(self.device)
        return {
            "wall_seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }

    def warm_up(self, cases: Sequence[Case]) -> None:
        """Makes the inputs and runs each case once; on a CPU over one frame."""
        torch.set_num_threads(self.setup.threads)
        small = self
        if self.device.type == "cpu":
            small = Bench(replace(self.setup, frames=1, llm_frames=1))
            for case in cases:
                for _ in self._met(case):
                    pass
        for case in cases:
            small.run(case)
        self.product()
