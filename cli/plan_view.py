"""What `tokenreduce plan` says of a preset, as labelled lines and as rows of a table; prints and
predicts nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenreduce.forecast import Forecast, Refused

from .cost import against, quantity, size

_STAGES = {"load": "loading", "encode": "encoding", "reduce": "merging", "decode": "answering"}
_ALWAYS = ("weights", "workspace")  # parts of every stage


@dataclass(frozen=True)
class Memory:
    """limit: bytes of tensors that there is room for; None where nothing limits them. host_free: of
    the memory of the host, where that is what the run would take and it is known. card: the run
    would take a card's."""

    limit: int | None
    host_free: int | None
    card: bool


def details(
    one: Forecast | Refused, memory: Memory, *, pictures: bool
) -> Iterator[tuple[str, str]]:
    """Labels with what is told of one preset."""
    if isinstance(one, Refused):
        yield "preset", f"{one.preset}: cannot be used: {one.why}"
        return
    last, flops = one.per_layer[-1], one.flops
    peak, fullest = one.found.peak_bytes, one.found.fullest
    yield "preset", f"{one.preset}: {one.method}"
    short = (
        ""
        if one.frames == one.requested
        else f" of {one.requested:,} asked for: the file has no more"
    )
    yield (
        "pictures" if pictures else "frames",
        f"{one.frames:,}{short}, {one.batch} at a time in the tower",
    )
    yield (
        "visual tokens",
        f"{one.raw:,} raw -> {one.merged:,} merged -> {last:,} at the last layer, "
        f"{one.mean:,.0f} in the mean; about {one.text:,} of text",
    )
    yield (
        "prefill",
        f"{quantity(flops.vision, 'FLOP')} in the vision tower, "
        f"{quantity(flops.llm + flops.overhead, 'FLOP')} in the LLM, {against(flops.ratio_llm)}",
    )
    yield "KV cache", size(one.kv_bytes)
    parts = ", ".join(f"{name} {size(count)}" for name, count in fullest.parts)
    yield "peak memory", f"{size(peak)} predicted, {_while(fullest.name)}: {parts}"
    for stage in one.found.stages:
        if stage is not fullest:
            own = [f"{name} {size(count)}" for name, count in stage.parts if name not in _ALWAYS]
            beside = f", of which {', '.join(own)}" if own else ""
            yield "", f"{_while(stage.name)} {size(stage.total)}{beside}"
    if one.found.driver_bytes:
        yield "", f"and about {size(one.found.driver_bytes)} for the driver, beside it"
    if (fits := _in_full(one, memory)) is not None:
        yield "fits", fits
    yield "seconds", _seconds(one)


def _while(stage: str) -> str:
    return _STAGES.get(stage, stage)


def _seconds(one: Forecast) -> str:
    if one.seconds is None:
        return "not calibrated: known once questions have been asked here with this model"
    seconds = one.seconds
    return (
        f"about {seconds.first_token:.1f} to the first token: decode {seconds.decode:.1f}, "
        f"encode {seconds.encode:.1f}, prefill {seconds.prefill:.1f}"
    )


def _in_full(one: Forecast, memory: Memory) -> str | None:
    """Whether it fits, and else what to do; None where there is nothing to say of it."""
    if memory.limit is not None:
        told = _fits(one, memory.limit)
        if one.fits or one.offers:
            return told
        if memory.limit == 0:
            return f"{told}; give more --vram"
        larger = (
            "a larger card, or several with --device-map auto" if memory.card else "more --vram"
        )
        return f"{told}; use a smaller --model or {larger}"
    free, nf4 = memory.host_free, one.nf4_bytes
    if free is None or one.found.peak_bytes <= free:
        return None
    told = f"no: the host has {size(free)} free"
    if nf4 is not None and nf4 <= free:
        return f"{told}; --quantize nf4 would fit"
    return f"{told}; a smaller --model or a card (--vram plans for one) may do"


def _fits(one: Forecast, limit: int) -> str:
    """limit: bytes of tensors that there is room for."""
    if one.fits:
        return "yes"
    if one.offers:
        return f"no; {' or '.join(one.offers)} would"
    weights = dict(one.found.fullest.parts)["weights"]
    if limit == 0:
        return "no: nothing is left for tensors"
    if weights > limit:
        return f"no: the weights alone take {size(weights)}"
    return "no, whatever is lowered"


def table(found: Sequence[Forecast | Refused], memory: Memory) -> Iterator[tuple[str, ...]]:
    """Every preset in a line."""
    limit = memory.limit
    last = "fits" if limit is not None else ""
    yield ("preset", "frames", "tokens", "prefill", "peak", last)
    for one in found:
        if isinstance(one, Refused):
            yield (one.preset, "-", "-", "-", "-", f"cannot be used: {one.why}")
            continue
        flops = one.flops
        whole = quantity(flops.vision + flops.llm + flops.overhead, "FLOP")
        yield (
            one.preset,
            f"{one.frames:,}",
            f"{one.merged:,}",
            whole,
            size(one.found.peak_bytes),
            "" if limit is None else _fits(one, limit),
        )
