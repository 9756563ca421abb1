"""What `tokenreduce plan` says of a preset, as labelled lines and as rows of a table; prints and
predicts nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenreduce.forecast import Forecast, Refused

from .cost import against, quantity, size

_STAGES = {"load": "loading", "encode": "encoding", "reduce": "merging"}


def details(one: Forecast | Refused, judged: bool, *, pictures: bool) -> Iterator[tuple[str, str]]:
    if isinstance(one, Refused):
        yield "preset", f"{one.preset}: cannot be used: {one.why}"
        return
    last, flops = one.per_layer[-1], one.flops
    peak, fullest = one.found.peak_bytes, one.found.fullest
    yield "preset", f"{one.preset}: {one.method}"
    yield (
        "pictures" if pictures else "frames",
        f"{one.frames:,}, {one.batch} at a time in the tower",
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
    others = [stage for stage in one.found.stages if stage is not fullest]
    yield "", ", ".join(f"{_while(stage.name)} {size(stage.total)}" for stage in others)
    if one.found.driver_bytes:
        yield "", f"and about {size(one.found.driver_bytes)} for the driver, beside it"
    if judged:
        yield "fits", _fits(one)
    yield "seconds", _seconds(one)


def loose(text: str) -> str:
    """With plain spaces before units: this may go into a file."""
    return text.replace("\u00a0", " ")


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


def _fits(one: Forecast) -> str:
    if one.fits:
        return "yes"
    return f"no; {' or '.join(one.offers)} would" if one.offers else "no, whatever is lowered"


def table(found: Sequence[Forecast | Refused]) -> Iterator[tuple[str, ...]]:
    """Every preset in a line."""
    judged = any(not isinstance(one, Refused) and one.fits is not None for one in found)
    yield ("preset", "frames", "tokens", "prefill", "peak", *(["fits"] if judged else []))
    for one in found:
        if isinstance(one, Refused):
            yield (one.preset, "-", "-", "-", "-", *([f"no: {one.why}"] if judged else []))
            continue
        flops = one.flops
        whole = quantity(flops.vision + flops.llm + flops.overhead, "FLOP")
        yield (
            one.preset,
            f"{one.frames:,}",
            f"{one.merged:,}",
            whole,
            size(one.found.peak_bytes),
            *([_fits(one)] if judged else []),
        )
