"""What an answer cost, as lines of text for a given width; prints nothing, measures nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from tokenreduce.result import Answer, Seconds, TokenCounts

from .safe import escaped

_LABEL = 15  # columns of the labels on the left
_LONGEST = 100  # lines longer than this are hard to read on any terminal
TIE = "\u00a0"  # holds a number and its unit or name together while lines are wrapped
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.:-=+*#"


def cost_lines(answer: Answer, width: int, *, unicode: bool) -> list[tuple[str, str]]:
    """(label, text) a line, label "" where a text goes on; none is wider than `width` columns."""
    room = max(20, min(width, _LONGEST) - _LABEL)
    lines: list[tuple[str, str]] = []
    for label, text in _rows(answer, room, unicode):
        wrapped = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        lines += [
            (label if i == 0 else "", line.replace(TIE, " ")) for i, line in enumerate(wrapped)
        ]
    return lines


def laid_out(label: str, text: str) -> str:
    """One line of the table."""
    return f"{label:<{_LABEL}}{text}".rstrip()


def _rows(answer: Answer, room: int, unicode: bool) -> list[tuple[str, str]]:
    seconds, flops, memory, tokens = (
        answer.seconds,
        answer.flops,
        answer.memory_bytes,
        answer.tokens,
    )
    last = tokens.per_layer[-1] if tokens.per_layer else tokens.merged
    quantize = "not quantised" if answer.quantize == "none" else answer.quantize
    return [
        ("model", f"{escaped(answer.model)}, {quantize}"),
        ("preset", f"{escaped(answer.preset)}: {answer.method}, seed {answer.seed}"),
        ("pictures", _pictures(answer)) if answer.images else ("frames", _frames(answer)),
        (
            "visual tokens",
            f"{tokens.raw:,} raw -> {tokens.merged:,} merged ({_share(tokens.merged, tokens.raw)})"
            f" -> {last:,} at the last layer",
        ),
        ("per LLM layer", _layers(tokens, room, unicode)),
        (
            "prefill",
            f"{quantity(flops.llm + flops.overhead, 'FLOP')} in the LLM, "
            f"{against(flops.ratio_llm)} ({quantity(flops.llm_unreduced, 'FLOP')})",
        ),
        (
            "",
            f"{quantity(flops.vision + flops.llm + flops.overhead, 'FLOP')} with the vision "
            f"tower, {against(flops.ratio_total)}",
        ),
        (
            "KV cache",
            f"{size(memory.kv_cache)}, "
            f"{against(memory.kv_cache_unreduced / max(memory.kv_cache, 1))} "
            f"({size(memory.kv_cache_unreduced)})",
        ),
        ("seconds", _seconds(seconds)),
        ("", f"first token {seconds.first_token:.2f} after loading"),
        ("speed", _speed(answer)),
        ("peak memory", _peak(answer)),
    ]


def _frames(answer: Answer) -> str:
    used = answer.frames
    text = f"{used.decoded:,} of {used.requested:,} asked for"
    if used.repeats:
        text += f" ({used.repeats:,} repeat{'' if used.repeats == 1 else 's'} skipped)"
    if used.seconds:
        last = (used.until or used.seconds)[-1]  # what repeats the last frame is looked at, too
        text += f", from {used.seconds[0]:.2f} s to {last:.2f} s"
    if used.source != "decoded":
        text += {"session": ", viewed before", "cache": ", from the cache"}[used.source]
    return text


def _pictures(answer: Answer) -> str:
    sizes = ", ".join(f"{one.width:,} x {one.height:,}" for one in answer.images)
    return f"{len(answer.images):,}: {sizes.replace(' ', TIE).replace(f',{TIE}', ', ')}"


def _layers(tokens: TokenCounts, room: int, unicode: bool) -> str:
    mean = f"  mean{TIE}{tokens.mean_per_layer:,.0f}" if tokens.per_layer else ""
    return sparkline(tokens.per_layer, room - len(mean), unicode=unicode) + mean


def _seconds(seconds: Seconds) -> str:
    """Part by part; what no part accounts for, imports above all, is shown where it counts."""
    spent = asdict(seconds)
    total, digest = spent.pop("total"), spent.pop("digest")
    del spent["first_token"]
    if digest:
        spent = {"digest": digest, **spent}
    other = total - sum(spent.values())
    if other > 0.02 * total:
        spent["other"] = other
    return ", ".join(f"{name}{TIE}{value:.2f}" for name, value in {**spent, "total": total}.items())


def _speed(answer: Answer) -> str:
    # The first token belongs to the prefill.
    count, seconds = answer.generated_tokens - 1, answer.seconds.generate
    rate = f"{count / seconds:.1f} tokens/s, " if count > 0 and seconds > 0 else ""
    plural = "" if answer.generated_tokens == 1 else "s"
    return f"{rate}{answer.generated_tokens:,} token{plural} generated"


def _peak(answer: Answer) -> str:
    memory = answer.memory_bytes
    host = f"{size(memory.host_peak)} host"
    return host if memory.device_peak is None else f"{size(memory.device_peak)} device, {host}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%} kept" if whole else "nothing to keep"


def sparkline(counts: Sequence[int], width: int, *, unicode: bool) -> str:
    """One character a layer, or a mean of several where the layers outnumber the columns.

    The lowest level stands for zero alone, the highest for the largest count.

    >>> sparkline([8, 8, 4, 1, 0], 20, unicode=False)
    '##=._'
    """
    levels = _BLOCKS if unicode else _ASCII
    top = len(levels) - 1
    columns, largest = min(len(counts), width), max(counts, default=0)
    line = ""
    for column in range(columns):
        group = counts[column * len(counts) // columns : (column + 1) * len(counts) // columns]
        mean = sum(group) / len(group)
        line += levels[max(1, round(mean / largest * top))] if any(group) else levels[0]
    return line


def against(ratio: float) -> str:
    """How much less than unreduced a cost is."""
    if 0.995 <= ratio <= 1.005:
        return "as unreduced"
    if ratio > 1:
        return f"{ratio:.{2 if ratio < 2 else 1}f}x less than unreduced"
    return f"{1 / ratio:.2f}x of unreduced" if ratio > 0 else "unknown against unreduced"


def quantity(value: float, unit: str) -> str:
    """With a decimal prefix, three figures and a tie between: 2.31 TFLOP."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5:
            return f"{value:.3g}{TIE}{prefix}{unit}"
        value /= 1000
    return f"{value:.3g}{TIE}P{unit}"


def size(count: float) -> str:
    """Bytes with a binary prefix and a tie between: 6.1 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.{0 if unit == 'B' else 1}f}{TIE}{unit}"
        count /= 1024
    return f"{count:,.1f}{TIE}GiB"
