"""The rows of benchmarks/gpu.py: what is measured and what is wanted of it. Measures nothing.

A row's figure is a number, or a reason why there is none, such as "does not fit".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, float | str]
"""By the key of a row: its figure, or why there is none."""

NO_FIT = "does not fit"
NOT_DONE = "not done: "
"""How a reason begins that is the machine's or the measuring's: nothing is known of what was
measured, so nothing is said of whether it is met."""
NO_GRAPHS = "no graphs: "
"""How one begins that is the product's own failure on a GPU."""


@dataclass(frozen=True)
class Row:
    """One figure of one section.

    key          within its section
    unit         "x" for a ratio, "share" of 1, "seconds", "tokens/s", "frames/s", "GiB", "tokens"
    least, most  the figure that is wanted; None where it is only reported
    """

    section: str
    key: str
    what: str
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        parts = [] if self.least is None else [f">= {told(self.least, self.unit)}"]
        parts += [] if self.most is None else [f"<= {told(self.most, self.unit)}"]
        return ", ".join(parts) or "reported"

    def met(self, figure: float | str) -> bool | None:
        """None where nothing is wanted, or where it was not done. Any other reason that there is no
        figure, such as NO_FIT, is not what is wanted."""
        if self.least is None and self.most is None:
            return None
        if isinstance(figure, str):
            return None if figure.startswith(NOT_DONE) else False
        over = self.least is None or figure >= self.least
        return over and (self.most is None or figure <= self.most)


def _prefill(kind: str, least: float | None) -> tuple[Row, ...]:
    section, name = f"prefill-{kind}", kind.upper() if kind == "nf4" else kind
    what = f"prefill of 64 x 210 visual tokens, {name}"
    minus = ", both less the fixed cost" if kind == "nf4" else ""
    rows = [
        Row(section, "plain_seconds", f"{what}: unreduced, 100 text tokens", "seconds"),
        Row(
            section, "speedup", f"{what}: AIM's merging to 25 % and pruning against it", "x", least
        ),
        Row(section, "of_flops", f"{what}: that over the FLOPs ratio{minus}", "share", 0.85),
        Row(section, "generate", f"{what}: a whole generate of one token against stock's", "x"),
        Row(section, "speedup_time_text", f"{what}: the same with the real time text", "x"),
        Row(section, "of_flops_time_text", f"{what}: that over its FLOPs ratio{minus}", "share"),
    ]
    if kind == "nf4":
        fixed = "dequantising every matrix once, alone"
        rows += [
            Row(section, "fixed_seconds", f"{fixed}: time", "seconds"),
            Row(section, "fixed_bytes", f"{fixed}: read and written", "GB"),
            Row(section, "fixed_launches", f"{fixed}: calls", "calls"),
        ]
    return tuple(rows)


def _importance() -> tuple[Row, ...]:
    rows = []
    for tokens, most in ((6, 0.05), (12, 0.08), (25, 0.12)):
        what = f"importance scoring of {tokens}k tokens, share of its prefill, bf16"
        rows.append(Row("importance", f"share_{tokens}k", what, "share", most=most))
        kernel = f"the Triton kernel against plain torch, one layer of {tokens}k tokens"
        rows.append(Row("importance", f"kernel_{tokens}k", kernel, "x"))
    for name in ("512", "1k", "2k", "4k"):
        kernel = f"the same of {name} tokens, text included"
        rows.append(Row("importance", f"kernel_{name}", kernel, "x"))
    return tuple(rows)


def _first_token() -> tuple[Row, ...]:
    section, rows = "first-token", []
    for frames in (64, 128):
        what = f"{frames} frames, NF4: encode + prefill, reduced against unreduced"
        rows.append(Row(section, f"speedup_{frames}", what, "x", least=3))
    what = "encode + prefill of 192 reduced frames over that of 64 unreduced"
    rows.append(Row(section, "long_over_short", what, "x", most=1))
    for frames in (64, 128, 192):
        for part in ("decode", "encode", "prefill"):
            what = f"share of {part} in the time to the first token, {frames} frames reduced"
            rows.append(Row(section, f"{part}_share_{frames}", what, "share"))
    rows.append(Row(section, "first_token_seconds_64", "64 frames, whole road", "seconds"))
    what = "decoding and encoding overlapped, over the slower of the two alone, 128 frames"
    rows.append(Row(section, "overlap", what, "x", most=1.15))
    what = "the whole road over its slowest stage alone, 128 frames"
    rows.append(Row(section, "road", what, "x", most=1.15))
    return tuple(rows)


def _longest() -> tuple[Row, ...]:
    section = "longest"
    made = "1 frame a second, frames made instead of decoded, 12k budget, NF4, a card of 12 GiB"
    return (
        Row(section, "peak", f"up to 3,600 frames, {made}: peak", "GiB", most=10),
        Row(
            section, "flat", "largest peak of 600 to 3,600 frames over that of 600", "x", most=1.03
        ),
        Row(section, "seconds", "3,600 frames: to the first token", "seconds"),
        Row(section, "decoded_peak", "600 frames decoded from H.264: peak", "GiB", most=10),
        Row(section, "decoded_seconds", "600 frames decoded: to the first token", "seconds"),
    )


def _grid() -> tuple[Row, ...]:
    section = "prediction"
    what = "predicted peak over the measured one, presets balanced, aim and none"
    return (
        Row(section, "worst_over", f"{what}: largest", "x", most=1.1),
        Row(section, "worst_under", "the same, smallest", "x", least=0.97),
    )


def _tower() -> tuple[Row, ...]:
    batches, ways = (8, 16, 32), ("eager", "compiled")
    return tuple(
        Row("tower", f"{way}_{batch}", f"vision tower, batches of {batch}, {way}", "frames/s")
        for way in ways
        for batch in batches
    )


def _peak() -> tuple[Row, ...]:
    section, what = "peak", "64 frames, NF4: peak over the model"
    return (
        Row(section, "unreduced", f"{what}, unreduced", "GiB"),
        Row(section, "reduced", f"{what}, merged and pruned", "GiB"),
        Row(section, "ratio", "the second over the first", "x", most=1),
    )


def _profile() -> tuple[Row, ...]:
    section, rows = "profile", []
    for part, by in (("prefill", "FLOPs"), ("decode", "bytes")):
        rows.append(Row(section, f"{part}_seconds", f"{part} as profiled, NF4", "seconds"))
        rows.append(Row(section, f"{part}_floor", f"{part}: its floor by {by}", "seconds"))
        rows.append(Row(section, f"{part}_gap", f"{part}: time over its floor", "x"))
    return tuple(rows)


ROWS: tuple[Row, ...] = (
    *_prefill("bf16", 6),
    *_prefill("nf4", None),
    Row("decode", "stock", "decoding, NF4, batch 1: stock generate", "tokens/s"),
    Row("decode", "slots", "decoding, NF4, batch 1: front-slot cache, CUDA graphs", "tokens/s"),
    Row("decode", "speedup", "the second over the first", "x", least=2),
    *_first_token(),
    *_longest(),
    Row("small", "budget", "256 frames on a card of 8 GiB: largest budget", "tokens", least=3000),
    Row("small", "budget_24", "256 frames on a card of 24 GiB: largest budget", "tokens"),
    Row("small", "budget_16", "256 frames on a card of 16 GiB: largest budget", "tokens"),
    *_peak(),
    *_grid(),
    *_profile(),
    *_importance(),
    *_tower(),
    Row("masked", "merged", "merged, pruned by masking (eager) over removing, bf16: time", "x"),
    Row("masked", "whole", "not merged, the same: time", "x"),
    Row("masked", "merged_peak", "merged, pruned by masking: peak over the model", "GiB"),
    Row("masked", "removed_peak", "merged, pruned by removing: peak over the model", "GiB"),
)
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(row.section for row in ROWS))


def rows_of(section: str) -> Sequence[Row]:
    return [row for row in ROWS if row.section == section]


def judged(section: str, figures: Figures) -> dict[str, Any]:
    """What a result holds of a section: every row with its figure and whether it is met.

    Raises ValueError for a row without a figure, a figure without a row, or one not finite.
    """
    rows = {row.key: row for row in rows_of(section)}
    if rows.keys() != figures.keys():
        odd = sorted(rows.keys() ^ figures.keys())
        raise ValueError(f"{section}: rows and figures differ in {', '.join(odd)}")
    for key, figure in figures.items():
        if not isinstance(figure, str) and not math.isfinite(figure):
            raise ValueError(f"{section}: {key} is {figure}")
    return {
        key: {"wanted": row.wanted, "figure": figures[key], "met": row.met(figures[key])}
        for key, row in rows.items()
    }


def told(figure: float | str, unit: str) -> str:
    """For people: three digits that count, and the unit."""
    if isinstance(figure, str):
        return figure
    if unit == "share":
        return f"{100 * figure:.3g} %"
    number = f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"
    return f"{number} x" if unit == "x" else f"{number} {unit}"
