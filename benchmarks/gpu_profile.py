"""Where the time of a prefill and of a decoding step goes, against its floor on this very card.

A section of benchmarks/gpu.py, see there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_bench import Bench
from benchmarks.gpu_prefill import causal_flops
from benchmarks.gpu_rows import Figures
from tokenreduce.models.llava_video import LlavaVideo

Found = tuple[Figures, dict[str, Any]]
TOP = 12


def profiles(bench: Bench) -> Found:
    """Prefill, merged and pruned; and decoding as the product does it by itself."""
    model, steps = bench.model("nf4"), bench.scale.steps
    viewed, _ = bench.view(model, bench.scale.frames, "aim")
    prompt = bench.prompt(model, viewed)
    read = partial(bench.generated, model, prompt, viewed.prunes)
    speak = partial(bench.generated, model, prompt, viewed.prunes, steps)
    speak()
    flops_a_second, bytes_a_second = roofs(bench)
    prefill = read().prefill_seconds
    decode = speak().seconds / (steps - 1)
    floors = {
        "prefill": causal_flops(model, prompt, viewed.prunes) / flops_a_second,
        "decode": step_bytes(model) / bytes_a_second,
    }
    figures: dict[str, float | str] = {}
    for part, seconds in (("prefill", prefill), ("decode", decode)):
        figures[f"{part}_seconds"] = seconds
        figures[f"{part}_floor"] = floors[part]
        figures[f"{part}_gap"] = seconds / floors[part]
    return figures, {
        "flops_a_second": flops_a_second,
        "bytes_a_second": bytes_a_second,
        "prefill": summary(bench, read),
        f"prefill and {steps} steps": summary(bench, speak),
    }


def roofs(bench: Bench) -> tuple[float, float]:
    """FLOPs a second of a large matrix product, and bytes a second of a copy, read and written, as
    measured here, in bfloat16, in which four-bit layers compute anywhere: what no kernel of this
    device will beat by much."""
    side = bench.scale.roof
    left = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16)
    right, out = torch.randn_like(left), torch.empty_like(left)
    much = left.repeat(8, 1)  # more than a cache holds
    copy = torch.empty_like(much)
    works: list[Callable[[], object]] = [
        lambda: torch.mm(left, right, out=out),
        lambda: copy.copy_(much),
    ]
    seconds = []
    for work in works:
        for _ in range(3):
            work()
        seconds.append(min(bench.seconds(work) for _ in range(10)))
    return 2 * side**3 / seconds[0], 2 * much.numel() * much.element_size() / seconds[1]


def step_bytes(model: LlavaVideo) -> int:
    """That one step must read: every layer's weights as stored, NF4's scales (some 3 % more) and
    the cache left out, and the output layer's."""
    layers: Any = model.host.model.language_model.layers
    parts = [*layers.parameters(), *model.host.lm_head.parameters()]
    return sum(part.numel() * part.element_size() for part in parts)


def summary(bench: Bench, work: Callable[[], object]) -> dict[str, Any]:
    """The kernels (on a CPU: operations) that took longest by themselves, in seconds."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bench.on_gpu
    with profile(activities=kinds) as taken:
        wall = bench.seconds(work)
    events: list[Any] = list(taken.key_averages())
    if bench.on_gpu:  # operations of the host are told the time of their kernels a second time
        events = [event for event in events if event.device_type.name == "CUDA"]
    spent = {
        event.key: (_micro(event, bench.on_gpu) / 1e6, int(event.count))
        for event in sorted(events, key=lambda e: -_micro(e, bench.on_gpu))
    }
    return {
        "wall_seconds": wall,
        "busy_seconds": sum(seconds for seconds, _ in spent.values()),
        "calls": sum(count for _, count in spent.values()),
        "top": [
            {"kernel": key[:120], "seconds": seconds, "calls": count}
            for key, (seconds, count) in list(spent.items())[:TOP]
        ],
    }


def _micro(event: Any, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
