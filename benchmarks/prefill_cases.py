"""The cases of benchmarks/prefill.py: one random model, one prompt, five ways to read it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2Config

from benchmarks import masked
from benchmarks.peaks import peak_bytes
from tokenreduce import cost, memory, solving
from tokenreduce.budget import Layout
from tokenreduce.engine import attention
from tokenreduce.engine.host import HostedQwen2, prepare, read_prompt, stack_of
from tokenreduce.engine.types import Plan, Prefilled, Prompt, Prune
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.ask_prune import AskPrune
from tokenreduce.methods.drift_merge import DriftMerge
from tokenreduce.models.spec import TextSpec
from tokenreduce.paradigm import Method, Site, reduce
from tokenreduce.schedule import Full, Ramp, Schedule
from tokenreduce.seen import Need, Seen
from tokenreduce.tokens import Affinity, Split, Tokens
from tokenreduce.work import Cost, Sizes

SIZES = {
    # Vocabularies are small: only the last position goes through the output layer.
    "tiny": TextSpec(4, 64, 128, 4, 2, 16, 128, 4096),
    "0.5b": TextSpec(28, 896, 4864, 14, 2, 64, 1024, 32768),
    "7b": TextSpec(28, 3584, 18944, 28, 4, 128, 1024, 32768),
}
SIDE, KEPT = 14, 49  # tokens along a pooled frame's side; a quarter of 196 stays


@dataclass(frozen=True)
class Setup:
    """What is run: SIZES[size] with `layers` layers over frames x 196 visual and some text tokens.

    device "cpu" or "cuda", dtype "float32" or "bfloat16"
    """

    size: str
    layers: int
    frames: int
    text_tokens: int
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class Case:
    """stock: transformers' own forward. engine: this project's prefill. masked: see masked.py.
    own: this project's own `drift` instead of AIM, at the same mean of tokens over the layers, by
    `schedule` where it is not its usual one."""

    merged: bool = False
    way: Literal["stock", "engine", "masked"] = "stock"
    own: bool = False
    schedule: Schedule | None = None


CASES = {
    "plain": Case(),
    "merged": Case(merged=True),
    "pruned": Case(way="engine"),
    "merged_pruned": Case(merged=True, way="engine"),
    "merged_masked": Case(merged=True, way="masked"),
    "drift": Case(merged=True, way="engine", own=True),
}


def clock(device: torch.device) -> float:
    """Seconds: of this process's CPU time for a CPU, which others' load hardly moves, else wall."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


@dataclass(frozen=True)
class Timed:
    """A method that writes down how long each choice it makes takes: on CUDA by events in the
    device's own queue, so that nothing is waited for which would not be; else on `spent`, in
    seconds."""

    inner: Method
    device: torch.device
    spent: list[float] = field(default_factory=list)
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of all choices; on CUDA once the device has done its work."""
        milliseconds: float = sum(first.elapsed_time(last) for first, last in self.events)
        return sum(self.spent) + milliseconds / 1000

    @property
    def sites(self) -> frozenset[Site]:
        return self.inner.sites

    @property
    def needs(self) -> frozenset[Need]:
        return self.inner.needs

    @property
    def usual(self) -> Schedule | None:
        return self.inner.usual

    def rounds(self, n: int, keep: int) -> Iterable[int]:
        return self.inner.rounds(n, keep)

    def filter(self, seen: Seen, keep: int) -> Split:
        if self.device.type != "cuda":
            memory.synchronise(self.device)
            begun = clock(self.device)
            split = self.inner.filter(seen, keep)
            memory.synchronise(self.device)
            self.spent.append(clock(self.device) - begun)
            return split
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.events.append((first, last))
        first.record(torch.cuda.current_stream(self.device))
        split = self.inner.filter(seen, keep)
        last.record(torch.cuda.current_stream(self.device))
        return split

    def correlate(self, seen: Seen, split: Split) -> Affinity:
        return self.inner.correlate(seen, split)

    def compress(self, seen: Seen, split: Split, affinity: Affinity) -> Tokens:
        return self.inner.compress(seen, split, affinity)

    def work(self, sizes: Sizes, keep: int) -> Cost:
        return self.inner.work(sizes, keep)


@dataclass(frozen=True)
class Took:
    """Seconds of one run's parts; per_layer: visual tokens each layer attended to."""

    merge_seconds: float
    importance_seconds: float
    per_layer: tuple[int, ...]


@dataclass(frozen=True)
class Bench:
    """A model with random weights and one prompt for it.

    features (frames, 196, d) stand for pooled frames, text (1, text_tokens, d) for a prompt whose
    first half comes before them.
    """

    setup: Setup
    spec: TextSpec
    model: HostedQwen2
    features: Tensor
    text: Tensor

    @classmethod
    def build(cls, setup: Setup) -> Bench:
        torch.manual_seed(0)
        torch.set_num_threads(setup.threads)
        spec = replace(SIZES[setup.size], layers=setup.layers)
        config = Qwen2Config(
            hidden_size=spec.width,
            intermediate_size=spec.mlp_width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.kv_heads,
            vocab_size=spec.vocab,
            max_position_embeddings=spec.context,
        )
        device, dtype = torch.device(setup.device), getattr(torch, setup.dtype)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device:
                model = HostedQwen2(config).eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        finally:
            torch.set_default_dtype(before)
        prepare(model)
        features = torch.randn(setup.frames, SIDE * SIDE, spec.width, device=device, dtype=dtype)
        text = torch.randn(1, setup.text_tokens, spec.width, device=device, dtype=dtype)
        return cls(setup, spec, model, features, text)

    @property
    def device(self) -> torch.device:
        return self.features.device

    def per_layer(self, case: Case) -> tuple[int, ...]:
        """Visual tokens that each layer of the case works on, by the schedule alone."""
        visual = self.entering(case)
        schedule = self.prune(case).schedule if case.way == "engine" else Full()
        return cost.acting(schedule, self.spec.layers, visual)

    def prune(self, case: Case) -> Prune:
        """What acts inside the LLM in an "engine" case."""
        own = AskPrune()
        return (
            Prune(own, case.schedule or own.usual or Full())
            if case.own
            else Prune(AimPrune(), Ramp())
        )

    def entering(self, case: Case) -> int:
        """Visual tokens that enter the LLM."""
        frames, layers = self.setup.frames, self.spec.layers
        if case.own:
            mean = sum(cost.acting(Ramp(), layers, frames * KEPT)) // layers
            return solving.entering(mean, [self.prune(case).schedule], layers, frames * SIDE**2)
        return frames * (KEPT if case.merged else SIDE * SIDE)

    @torch.no_grad()
    def run(self, case: Case) -> Took:
        """Merges if the case says so, and reads the prompt. Raises RuntimeError if the layers did
        not see the tokens that the schedule promises."""
        begun = clock(self.device)
        visual = self._merged(case) if case.merged else self.features
        visual = visual.reshape(1, -1, self.spec.width)
        if case.merged:
            memory.synchronise(self.device)
        merge_seconds = clock(self.device) - begun
        half, n = self.setup.text_tokens // 2, visual.shape[1]
        embeds = torch.cat([self.text[:, :half], visual, self.text[:, half:]], dim=1)
        places = torch.arange(half, half + n, device=self.device)
        tokens = Tokens.fresh(visual).bare()
        del visual  # it stands in the prompt now
        prune = self.prune(case)
        timed = Timed(prune.method, self.device)
        stack = stack_of(self.model)
        if case.way == "stock":
            stack.set_attn_implementation("sdpa")  # type: ignore[attr-defined]  # untyped there
            cache = DynamicCache()
            self.model(inputs_embeds=embeds, past_key_values=cache, logits_to_keep=1)
        elif case.way == "engine":
            stack.set_attn_implementation(attention.NAME)  # type: ignore[attr-defined]  # untyped there
            grid = Layout(1, 1, n)
            prompt = Prompt(embeds, places, tokens, grid)
            cache = DynamicCache()
            read_prompt(self.model, Plan(prompt, [Prune(timed, prune.schedule)], 0, _ignore), cache)
        else:
            _, cache, spent = masked.prefill(self.model, embeds, places, Ramp(), clock)
            timed.spent.append(spent)
        memory.synchronise(self.device)
        cached = [cache.get_seq_length(i) - self.setup.text_tokens for i in range(len(cache))]
        took = Took(merge_seconds, timed.seconds, tuple(cached))
        if took.per_layer != self.per_layer(case):
            raise RuntimeError(f"{case}: layers saw {took.per_layer}, not {self.per_layer(case)}")
        return took

    def _merged(self, case: Case) -> Tensor:
        if case.own:
            clip = Tokens.fresh(self.features.flatten(0, 1).unsqueeze(0))
            grid = Layout(self.setup.frames, SIDE, SIDE)
            return reduce(DriftMerge(), Seen(clip, clip.x, grid), self.entering(case)).x
        tokens = Tokens.fresh(self.features)
        seen = Seen(tokens, self.features, Layout(1, SIDE, SIDE))
        return reduce(AimMerge(), seen, KEPT).x

    def timed(self, case: Case) -> dict[str, float]:
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        took = self.run(case)
        return {
            "wall_seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "merge_seconds": took.merge_seconds,
            "importance_seconds": took.importance_seconds,
        }

    def warm_up(self, cases: Sequence[Case]) -> None:
        """Each case once; on a CPU over one frame, for there are no kernels to choose."""
        small = self if self.device.type == "cuda" else self._of_frames(1)
        for case in cases:
            small.run(case)

    def _of_frames(self, frames: int) -> Bench:
        setup = replace(self.setup, frames=frames)
        return replace(self, setup=setup, features=self.features[:frames])

    def peak_bytes(self, case: Case) -> int:
        """See `peaks.peak_bytes`."""
        return peak_bytes(partial(self.run, case), self.device)


def _ignore(read: Prefilled) -> None:
    pass
