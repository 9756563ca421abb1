"""Draws what benchmarks/accuracy.py measured, as PNG and SVG under docs/figures; measures nothing.

    python -m benchmarks.figures

Colours are Okabe and Ito's, told apart by colour-blind readers; every line also has its own marker
and every figure prints in black and white. Only methods that a figure can tell apart are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT

FOLDER = ROOT / "docs" / "figures"
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#7F7F7F")
MARKERS = "osv^DPX*"
NAMED = ("drift", "aim", "framefusion", "sparsevlm", "fastv", "ficoco-v", "random", "pooling")
CONTROLS = ("random", "pooling")
"""Drawn in colour, in this order; every other method is a thin grey line."""

Cell = Mapping[str, Any]


def main() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "tokenreduce"  # the same figure is the same file
    cells = json.loads((RESULTS / "accuracy.json").read_text())["result"]["cells"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    at_16 = [cell for cell in cells if cell["frames"] == 16 and "refused" not in cell]
    _lines("accuracy-flops", at_16, "llm_flops", "prefill of the language model, FLOPs", "all")
    _lines("accuracy-share", at_16, "share", "mean share of visual tokens a layer", "all")
    _lines("needles-share", at_16, "share", "mean share of visual tokens a layer", "needles")
    others = [cell for cell in cells if "refused" not in cell]
    if {cell["frames"] for cell in others} > {16}:
        _frames(others)


def _lines(name: str, cells: Sequence[Cell], along: str, label: str, what: str) -> None:
    """Accuracy against cost, a line a method, with its 95 % intervals for the named ones."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.6))
    full = next((cell for cell in cells if cell["method"] == "none"), None)
    if full is not None:
        axes.axhline(full[what]["value"], color="#000000", linewidth=0.8, linestyle=":")
        axes.annotate(
            "every token",
            (1, full[what]["value"]),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
        )
    for method in sorted({cell["method"] for cell in cells} - {"none"}, key=_rank, reverse=True):
        own = sorted((c for c in cells if c["method"] == method), key=lambda c: c[along])
        _line(axes, method, [c[along] for c in own], [c[what] for c in own])
    axes.set_xscale("log")
    if along == "share":
        shares = sorted({cell[along] for cell in cells if cell["method"] != "none"})
        axes.set_xticks(shares, labels=[f"{100 * share:.3g} %" for share in shares], minor=False)
        axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.set_ylabel(f"questions answered right ({'needles' if what == 'needles' else 'all'})")
    _save(figure, axes, name)


def _frames(cells: Sequence[Cell]) -> None:
    """Needle accuracy against frames, at a fixed mean of tokens a layer, for our own method, AIM
    and random keeping."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.6))
    for method in ("random", "aim", "drift"):
        for tokens, style in ((75, ":"), (150, "-")):
            points = sorted(
                (
                    (c["frames"], c["needles"])
                    for c in cells
                    if c["method"] == method and 0.85 < c["mean"] / tokens < 1.15
                ),
                key=lambda point: int(point[0]),
            )
            if len(points) > 1:
                i = NAMED.index(method)
                values = [one["value"] for _, one in points]
                low = [one["value"] - one["low"] for _, one in points]
                high = [one["high"] - one["value"] for _, one in points]
                axes.errorbar(
                    [n for n, _ in points],
                    values,
                    yerr=[low, high],
                    fmt=style,
                    color=COLOURS[i],
                    marker=MARKERS[i],
                    elinewidth=0.6,
                    capsize=2,
                    label=f"{method}, about {tokens} tokens a layer",
                )
    axes.set_xscale("log", base=2)
    axes.set_xticks([8, 16, 32, 64], labels=["8", "16", "32", "64"])
    axes.set_xlabel("frames sampled")
    axes.set_ylabel("questions answered right (needles)")
    _save(figure, axes, "needles-frames", "upper left")


def _line(axes: Any, method: str, x: Sequence[float], y: Sequence[Mapping[str, float]]) -> None:
    value = [one["value"] for one in y]
    if method not in NAMED:
        axes.plot(x, value, color="#BBBBBB", linewidth=0.8, zorder=1)
        return
    i = NAMED.index(method)
    spread = [
        [one["value"] - one["low"] for one in y],
        [one["high"] - one["value"] for one in y],
    ]
    axes.errorbar(
        x,
        value,
        yerr=spread,
        color=COLOURS[i],
        marker=MARKERS[i],
        linestyle="--" if method in CONTROLS else "-",
        markersize=5,
        linewidth=1.4,
        elinewidth=0.6,
        capsize=2,
        label=method,
        zorder=2 + len(NAMED) - i,
    )


def _rank(method: str) -> int:
    return NAMED.index(method) if method in NAMED else len(NAMED)


def _save(figure: Any, axes: Any, name: str, legend: str = "lower right") -> None:
    axes.grid(color="#DDDDDD", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    # The best stand highest, as their lines do.
    axes.legend(handles[::-1], labels[::-1], fontsize=8, frameon=False, loc=legend)
    figure.tight_layout()
    for path in _paths(name):
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _paths(name: str) -> Iterable[Path]:
    return (FOLDER / f"{name}.png", FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
