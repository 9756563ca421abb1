"""From a video to the first token on a GPU: shares, overlap, and an hour of frames.

Sections of benchmarks/gpu.py, see there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.gpu_bench import GIB, Bench
from benchmarks.gpu_frames import Replayed, film, no_film
from benchmarks.gpu_rows import NO_FIT, Figures, rows_of
from benchmarks.record import Spread, rounds, spreads
from tokenreduce.clock import Clock
from tokenreduce.engine.types import Sampling
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.opening import Wanted
from tokenreduce.plan import Overrides
from tokenreduce.result import Answer
from tokenreduce.session import Session
from tokenreduce.subject import Footage
from tokenreduce.video.decoder import Decoder
from tokenreduce.viewing import see

Found = tuple[Figures, dict[str, Any]]
CARD_GIB = 12.0


def first_token(bench: Bench) -> Found:
    """Encoding and reading of frames that are in memory already, then the whole road of a film."""
    model = bench.model("nf4")
    few, more, most = bench.scale.first
    cases = {
        "reduced_64": (few, "aim"),
        "plain_64": (few, "none"),
        "reduced_128": (more, "aim"),
        "plain_128": (more, "none"),
        "reduced_192": (most, "aim"),
    }
    runs = {name: partial(_read, bench, model, *case) for name, case in cases.items()}
    first = bench.first(runs)
    taken = rounds(runs, bench.scale.repeats)
    both = {name: [one["encode"] + one["prefill"] for one in t] for name, t in taken.items()}
    figures: dict[str, float | str] = {
        "speedup_64": _over(both["plain_64"], both["reduced_64"]),
        "speedup_128": _over(both["plain_128"], both["reduced_128"]),
        "long_over_short": _over(both["reduced_192"], both["plain_64"]),
    }
    details: dict[str, Any] = {
        "in memory": {n: spreads(samples) for n, samples in taken.items()},
        "first call, seconds": first,
    }
    why = no_film()
    if why is not None:
        rest = (row.key for row in rows_of("first-token") if row.key not in figures)
        return {**figures, **dict.fromkeys(rest, why)}, details
    for road in (_shares, _overlap):
        more_figures, more_details = road(bench, model)
        figures, details = {**figures, **more_figures}, {**details, **more_details}
    return figures, details


def _read(bench: Bench, model: LlavaVideo, frames: int, preset: str) -> dict[str, float]:
    """encode: seconds from frames in memory to the tokens the LLM reads, merging included."""
    seen: list[Any] = []
    encode = bench.seconds(lambda: seen.append(bench.view(model, frames, preset)))
    viewed, plan = seen[0]
    made = bench.generated(model, bench.prompt(model, viewed, plan), viewed.prunes)
    return {"encode": encode, "prefill": made.prefill_seconds}


def _over(one: Sequence[float], other: Sequence[float]) -> float:
    return Spread.of([a / b for a, b in zip(one, other, strict=True)]).median


def _asked(bench: Bench, model: LlavaVideo, over: Overrides, seconds: float) -> Answer:
    """One question about a film, everything by the product; a new decoding child each time."""
    path = film(bench.folder, seconds, bench.scale.film_size)
    wanted = Wanted(path, "aim", over, Sampling(max_new_tokens=1))
    with Session(wanted, model=model) as session:
        return session.ask("What happens in this video?")


def _shares(bench: Bench, model: LlavaVideo) -> Found:
    figures: dict[str, float | str] = {}
    details: dict[str, Any] = {}
    for frames, name in zip(bench.scale.first, (64, 128, 192), strict=True):
        answer = _asked(bench, model, Overrides(frames=frames), bench.scale.film_seconds)
        seconds = answer.seconds
        parts = {
            "decode": seconds.decode,
            "encode": seconds.encode + seconds.reduce,
            "prefill": seconds.prefill,
        }
        figures |= {f"{part}_share_{name}": t / sum(parts.values()) for part, t in parts.items()}
        details[f"film, {name} frames"] = {**parts, "first_token": seconds.first_token}
        if name == 64:
            figures["first_token_seconds_64"] = seconds.first_token
    return figures, details


def _overlap(bench: Bench, model: LlavaVideo) -> Found:
    """Viewing against its parts alone: the child decoding, and the same frames from memory."""
    path = film(bench.folder, bench.scale.film_seconds, bench.scale.film_size)
    frames = bench.scale.first[1]
    with Decoder() as child:
        probe = child.probe(path)
        plan = bench.plan(model, "aim", Overrides(frames=frames), probe.seconds)
        replayed, about = Replayed(child), Footage(probe)

        def view(decoder: Decoder) -> Any:
            return see(decoder, model, about, plan, Clock())

        viewed = view(replayed.decoder)
        prompt = bench.prompt(model, viewed, plan)
        cases: dict[str, Callable[[], object]] = {
            "viewing": partial(view, child),
            "decode": lambda: list(child.stream(*replayed.order)),
            "encode": partial(view, replayed.decoder),
            "prefill": partial(bench.generated, model, prompt, viewed.prunes),
        }
        few = max(1, bench.scale.repeats // 2 + 1)  # decoding takes seconds, and hardly varies
        taken = rounds({name: bench.timed(case) for name, case in cases.items()}, few)
    seconds = {name: [one["seconds"] for one in samples] for name, samples in taken.items()}
    slower = [max(pair) for pair in zip(seconds["decode"], seconds["encode"], strict=True)]
    slowest = [max(pair) for pair in zip(slower, seconds["prefill"], strict=True)]
    road = [sum(pair) for pair in zip(seconds["viewing"], seconds["prefill"], strict=True)]
    figures = {"overlap": _over(seconds["viewing"], slower), "road": _over(road, slowest)}
    return figures, {"overlap": {name: spreads(samples) for name, samples in taken.items()}}


def longest(bench: Bench) -> Found:
    """A card of 12 GiB, one frame a second, the same budget for every length."""
    model, scale = bench.model("nf4"), bench.scale
    peaks: dict[int, float] = {}
    details: dict[str, Any] = {"held_bytes": bench.held()}
    for frames in scale.long:
        with bench.card(CARD_GIB, minus_driver=False):
            taken: list[float] = []
            peak = bench.fits(partial(bench.peak, partial(_hour, bench, model, frames, taken)))
        details[f"{frames} frames"] = {"peak_bytes": peak, "seconds": taken[0] if taken else None}
        if peak is not None:
            peaks[frames] = peak
    last = scale.long[-1]
    figures: dict[str, float | str] = dict.fromkeys(("peak", "flat", "seconds"), NO_FIT)
    if len(peaks) == len(scale.long):  # none of them too large
        figures["peak"] = max(peaks.values()) / GIB
        figures["flat"] = max(peaks.values()) / peaks[scale.long[0]]
        figures["seconds"] = details[f"{last} frames"]["seconds"]
    decoded, more = _decoded(bench, model)
    return {**figures, **decoded}, {**details, **more}


def _hour(bench: Bench, model: LlavaVideo, frames: int, taken: list[float]) -> None:
    """From made frames to the first token; its seconds go to `taken`."""

    def road() -> None:
        budget = bench.scale.long_budget
        viewed, plan = bench.view(model, frames, "aim", budget=budget, rate=1.0)
        bench.generated(model, bench.prompt(model, viewed, plan), viewed.prunes)

    taken.append(bench.seconds(road))


def _decoded(bench: Bench, model: LlavaVideo) -> Found:
    why = no_film()
    if why is not None:
        return dict.fromkeys(("decoded_peak", "decoded_seconds"), why), {}
    over = Overrides(fps=1.0, budget=bench.scale.long_budget)
    answers: list[Answer] = []

    def run() -> None:
        answers.append(_asked(bench, model, over, bench.scale.long_film_seconds))

    with bench.card(CARD_GIB, minus_driver=False):
        peak = bench.fits(partial(bench.peak, run))
    if peak is None:
        return dict.fromkeys(("decoded_peak", "decoded_seconds"), NO_FIT), {}
    seconds = answers[0].seconds
    figures = {"decoded_peak": peak / GIB, "decoded_seconds": seconds.first_token}
    return figures, {"decoded": vars(seconds), "sampled": len(answers[0].frames.seconds)}
