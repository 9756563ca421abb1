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
    _frames([cell for cell in cells if "refused" not in cell])


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
    axes.set_xlabel(label)
    axes.set_ylabel(f"questions answered right ({'needles' if what == 'needles' else 'all'})")
    _save(figure, axes, name)


def _frames(cells: Sequence[Cell]) -> None:
    """Needle accuracy against frames, a line a fixed number of tokens, for the method that the
    presets use and for random keeping."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.6))
    per_frame = 42
    for i, budget in enumerate((336, 168, 84)):
        for method, style in (("aim-merge", "-"), ("aim", "-"), ("drift", "-"), ("random", "--")):
            points = [
                (c["frames"], c["needles"])
                for c in cells
                if c["method"] == method
                and abs(c["frames"] * per_frame * c["share"] / budget - 1) < 0.15
            ]
            if len(points) > 1:
                points.sort(key=lambda p: p[0])
                x = [p[0] for p in points]
                y = [p[1]["value"] for p in points]
                axes.plot(
                    x,
                    y,
                    style,
                    color=COLOURS[i + 3],
                    marker=MARKERS[i],
                    label=f"{method}, about {budget} tokens a layer",
                )
    axes.set_xscale("log", base=2)
    axes.set_xticks([8, 16, 32, 64], labels=["8", "16", "32", "64"])
    axes.set_xlabel("frames sampled")
    axes.set_ylabel("needle questions answered right")
    _save(figure, axes, "needles-frames")


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
        markersize=5,
        linewidth=1.4,
        elinewidth=0.6,
        capsize=2,
        label=method,
        zorder=2 + len(NAMED) - i,
    )


def _rank(method: str) -> int:
    return NAMED.index(method) if method in NAMED else len(NAMED)


def _save(figure: Any, axes: Any, name: str) -> None:
    axes.grid(color="#DDDDDD", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    figure.tight_layout()
    for path in _paths(name):
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _paths(name: str) -> Iterable[Path]:
    return (FOLDER / f"{name}.png", FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
